"""Checkpoints that a training keeps on its way, as models."""

import json
import subprocess

import attrs
import pytest
from dvc_project import create, environment, repro, run, write
from tiny_recipe import BASE, RECIPE
from tiny_training import write_tokens

from llmrecipe import Epochs, Fraction, Quantized, Recipe, Steps, dvcfiles, evolve, measure, schedule, scheme
from llmrecipe.errors import StageError
from llmrecipe.plan.planner import plan
from llmrecipe.recipe import checks
from llmrecipe.stages.runner import run_stage

KEEPING = evolve(BASE, text__heldout=Fraction(0.1), training__keep_every=Steps(5))


def reasons(*models):
    return [str(each) for each in checks.violations(attrs.evolve(RECIPE, models=models))]


def test_a_kept_checkpoint_is_a_model_like_any_other():
    early = KEEPING.at(5)
    small = Quantized(model=early, scheme=scheme.W4A16(group_size=32), calibration_samples=8)
    further = evolve(KEEPING, name="further", start=early, tokenizer=None)
    recipe = Recipe(name="r", models=(KEEPING, early, small, further), measures=(measure.Perplexity(),))
    assert checks.violations(recipe) == []
    stages = {stage.name: stage for stage in plan([recipe]).stages}
    assert "kept" in stages["tiny-train"].outs
    assert stages["tiny-step5-export"].inputs["checkpoint"] == "artifacts/tiny/train/kept/5"
    assert stages["further-train"].inputs["start"] == stages["tiny-step5-export"].product("model")
    assert {"tiny-step5-perplexity", "tiny-step5-w4a16-perplexity"} <= stages.keys()


def test_without_keep_every_nothing_is_kept():
    stages = {stage.name: stage for stage in plan([RECIPE]).stages}
    assert "kept" not in stages["tiny-train"].outs
    assert reasons(BASE.at(5)) == [
        "small.models[0].step: 5, and tiny keeps no checkpoints; give its training keep_every=Steps(5)"
    ]


@pytest.mark.parametrize(
    ("every", "step", "kept"),
    [(5, 7, "5, 10, 15, 20"), (8, 20, "8, 16"), (2, 21, "2, 4, … 20"), (20, 40, "20")],
)
def test_a_step_that_is_not_kept_is_refused_with_those_that_are(every, step, kept):
    model = evolve(BASE, training__keep_every=Steps(every))
    assert reasons(model.at(step)) == [
        f"small.models[0].step: {step} is not kept; training.keep_every = Steps({every}) of tiny keeps {kept}"
    ]


def test_of_epochs_any_multiple_may_be_kept():
    model = evolve(KEEPING, training__duration=Epochs(2))
    assert reasons(model.at(500)) == []
    assert len(reasons(model.at(7))) == 1


def test_a_training_does_not_begin_for_a_step_beyond_its_epochs(tmp_path, monkeypatch, caplog):
    # 32 sequences of 32 tokens, which are 8 steps; steps beyond that are measured in vain.
    model = evolve(KEEPING, training__duration=Epochs(1), training__keep_every=Steps(4))
    (tmp_path / ".dvc").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("llmrecipe.stages.train.run", lambda context: None)

    def train(*models):
        recipe = Recipe(name="r", models=models)
        dvcfiles.write(plan([recipe]), tmp_path, references={"r": "r.py"})
        stages = {stage.name: stage for stage in plan([recipe]).stages}
        write_tokens(tmp_path / stages["tiny-train"].inputs["tokens"], train=32 * 32 + 1, heldout=200)
        output, params = tmp_path / "artifacts/tiny/train", tmp_path / "params/tiny.yaml"
        run_stage("train", name="tiny-train", output=output, params=params)

    reason = r"(?s)begun in vain:.*tiny-step12-export can't run: it reads step 12 of tiny-train, and Epochs\(.*8 steps"
    with pytest.raises(StageError, match=reason):
        train(model, model.at(8), model.at(12))
    train(model, model.at(8))
    assert "can't run" not in caplog.text


@pytest.mark.parametrize("every", [0, 21])
def test_a_distance_that_keeps_nothing_is_refused(every):
    (reason,) = reasons(evolve(BASE, training__keep_every=Steps(every)))
    assert reason.startswith(f"small.models[0].training.keep_every: Steps({every})")


@pytest.mark.slow
def test_dvc_makes_a_training_longer_and_measures_again_only_what_is_new(tmp_path):
    """What it has kept of the steps before is the same, so nothing that was made of it is made again."""

    def lasting(steps):
        model = evolve(KEEPING, training__duration=Steps(steps), training__schedule=schedule.Constant(warmup=Steps(2)))
        measures = (measure.Perplexity(max_tokens=512),)
        return Recipe(name="r", models=(model.at(5), model), measures=measures)

    project = create(tmp_path / "project", lasting(8))
    repro(project)
    first = json.loads((project / "artifacts/r/report/metrics.json").read_text())
    write(project, lasting(12))
    log = subprocess.run(["dvc", "repro"], cwd=project, env=environment(project), capture_output=True, text=True)

    assert "tiny-train: goes on after step 8 of an earlier run" in log.stderr
    ran = {line.split("'")[1] for line in log.stdout.splitlines() if line.startswith("Running stage")}
    assert ran == {"tiny-train", "tiny-export", "tiny-perplexity", "r-report"}
    second = json.loads((project / "artifacts/r/report/metrics.json").read_text())
    assert second["tiny-step5"] == first["tiny-step5"]
    assert second["tiny"] != first["tiny"]
    assert sorted(path.name for path in (project / "artifacts/tiny/train/kept").iterdir()) == ["10", "5"]
    assert run(project, "dvc", "status").strip() == "Data and pipelines are up to date."
