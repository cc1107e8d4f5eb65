"""What `dvc repro` runs again after a recipe has changed, with real DVC and the real stages."""

import json
import shutil
from pathlib import Path
from typing import Any

import attrs
import pytest
from corpora import contents
from dvc_project import create, repro, run, write
from tiny_recipe import RECIPE

from llmrecipe import AdamW, ByteLevelBPE, ExactDedup, Execution, FixUnicode, Parallelism, Perplexity, Runtime, Samples
from llmrecipe.plan.planner import plan
from llmrecipe.recipe.recipe import Recipe

pytestmark = pytest.mark.slow

BASE = attrs.evolve(
    RECIPE,
    corpus=attrs.evolve(RECIPE.corpus, clean=(FixUnicode(), ExactDedup()), heldout_fraction=0.1),
    evaluation=(Perplexity(max_tokens=512), Samples(prompts=("one",), max_new_tokens=4)),
)


def stale(project: Path) -> set[str]:
    """The stages that are stale in DVC's eyes for a reason of their own."""
    return set(json.loads(run(project, "dvc", "status", "--json")))


def training(**changes: Any) -> Recipe:
    return attrs.evolve(BASE, training=attrs.evolve(BASE.training, **changes))


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A project whose pipeline has run once and been committed."""
    project = create(tmp_path_factory.mktemp("finished") / "project", BASE)
    assert repro(project) == [stage.name for stage in plan([BASE]).stages]
    run(project, "git", "add", ".")
    run(project, "git", "commit", "--quiet", "--message", "Run")
    return project


@pytest.fixture
def project(finished, tmp_path) -> Path:
    """A copy of the finished project for one test."""
    return shutil.copytree(finished, tmp_path / "project", symlinks=True)


def test_right_after_a_run_nothing_runs(project):
    assert repro(project) == []


def test_damage_to_what_it_left_is_undone(project):
    before = contents(project / "artifacts")
    (project / "artifacts/tiny/export/model/manifest.json").unlink()
    weights = project / "artifacts/tiny/pretrain/checkpoint/model.safetensors"
    short = weights.read_bytes()[:-1]
    # A new file: the old one may be linked to DVC's cache, and an administrator may write into it.
    weights.unlink()
    weights.write_bytes(short)
    assert repro(project) == []
    assert contents(project / "artifacts") == before


def test_a_run_leaves_nothing_for_git_but_the_lock(finished):
    assert run(finished, "git", "show", "--name-only", "--format=").split() == [
        ".dvc/.gitignore", ".dvc/config", ".dvcignore", ".gitignore", "dvc.lock", "dvc.yaml", "params.yaml"
    ]  # fmt: skip
    assert run(finished, "git", "status", "--porcelain") == ""


def test_another_quantization_reruns_quantize_and_evaluate_only(project):
    scheme = attrs.evolve(BASE.compression[0].scheme, group_size=16)
    write(project, attrs.evolve(BASE, compression=(attrs.evolve(BASE.compression[0], scheme=scheme),)))
    assert repro(project) == ["tiny-quantize", "tiny-evaluate"]
    assert repro(project) == []


def test_another_learning_rate_reruns_pretrain_and_what_follows_and_shows_in_metrics_and_plots(project):
    write(project, training(optimizer=AdamW(learning_rate=3e-3)))
    assert repro(project) == ["tiny-pretrain", "tiny-export", "tiny-quantize", "tiny-evaluate"]

    metrics = json.loads(run(project, "dvc", "metrics", "diff", "--json"))
    assert metrics.keys() >= {f"artifacts/tiny/{kind}/metrics.json" for kind in ("pretrain", "evaluate")}
    loss = metrics["artifacts/tiny/pretrain/metrics.json"]["loss"]
    assert loss["old"] != loss["new"]
    shown = json.loads(run(project, "dvc", "metrics", "show", "--json"))[""]["data"]
    assert shown["artifacts/tiny/pretrain/metrics.json"]["data"]["loss"] == loss["new"]

    revisions = {
        title: {revision for plot in plots for revision in plot["revisions"]}
        for title, plots in json.loads(run(project, "dvc", "plots", "diff", "--json"))["data"].items()
    }
    both = {"HEAD", "workspace"}
    assert revisions == {
        "tiny-pretrain loss": both,
        "tiny-pretrain learning rate": both,
        "tiny-pretrain gradient norm": both,
        "tiny-pretrain throughput": {"workspace"},
    }


def test_every_curve_is_drawn_from_numbers(finished):
    plots = json.loads(run(finished, "dvc", "plots", "show", "--json"))["data"]
    assert all(len(drawn) == 1 for drawn in plots.values())
    points = {title: drawn[0]["content"]["data"]["values"] for title, drawn in plots.items()}
    steps = BASE.training.duration.count
    assert {title: len(values) for title, values in points.items()} == {
        "tiny-pretrain loss": steps + 1,
        "tiny-pretrain learning rate": steps,
        "tiny-pretrain gradient norm": steps,
        "tiny-pretrain throughput": steps,
    }
    for drawn in plots.values():
        axes = [drawn[0]["content"]["encoding"][axis]["field"] for axis in "xy"]
        for point in drawn[0]["content"]["data"]["values"]:
            assert all(float(point[axis]) > 0 for axis in axes)


def test_other_runtime_choices_rerun_nothing(project):
    write(
        project,
        attrs.evolve(
            BASE, runtime=Runtime(execution=Execution(workers=1), log_level="debug", log_interval=1, device="cpu")
        ),
    )
    assert stale(project) == set()
    assert repro(project) == []


def test_a_dropped_measure_reruns_what_it_affected(project):
    write(project, attrs.evolve(BASE, evaluation=BASE.evaluation[:1]))
    assert repro(project) == ["tiny-evaluate"]
    assert repro(project) == []


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        (training(clip_grad_norm=None), {"tiny-pretrain"}),
        (attrs.evolve(BASE, parallelism=Parallelism(data=2)), {"tiny-pretrain"}),
        (attrs.evolve(BASE, corpus=attrs.evolve(BASE.corpus, clean=())), {"books-prepare"}),
        (attrs.evolve(BASE, corpus=attrs.evolve(BASE.corpus, clean=BASE.corpus.clean[:1])), {"books-prepare"}),
        (attrs.evolve(BASE, tokenizer=ByteLevelBPE(vocab_size=280)), {"tiny-tokenizer"}),
        (attrs.evolve(BASE, compression=()), {"tiny-evaluate"}),
    ],
)  # fmt: skip
def test_a_changed_or_dropped_field_makes_its_own_stage_stale(project, changed, expected):
    write(project, changed)
    assert stale(project) == expected
    write(project, BASE)
    assert stale(project) == set()


def test_a_key_deleted_from_a_section_by_hand_makes_its_stage_stale(project):
    params = project / "params.yaml"
    text = params.read_text()
    params.write_text(text.replace("    clip_grad_norm: 1.0\n", ""))
    assert params.read_text() != text
    assert stale(project) == {"tiny-pretrain"}


def test_an_experiment_can_set_a_field_without_a_recipe(project):
    # DVC writes 9e-05, a number to it and to YAML 1.2, a text to YAML 1.1.
    assert repro(project, "exp", "run", "--set-param", "tiny-export.logits_tolerance=9e-5") == ["tiny-export"]
    assert "logits_tolerance: 9e-05\n" in (project / "params.yaml").read_text()


def test_a_new_file_where_a_corpus_searches_makes_prepare_stale(project):
    (project / "data" / "books" / "new.txt").write_text("eleven")
    assert stale(project) == {"books-prepare"}


def test_text_can_be_kept_with_the_project_and_reruns_nothing(project):
    run(project, "dvc", "add", "--quiet", "data/books")
    assert run(project, "git", "status", "--porcelain", "--untracked-files=all").split() == ["??", "data/books.dvc"]
    shutil.rmtree(project / "data" / "books")
    run(project, "dvc", "checkout", "--quiet")
    assert len(list((project / "data" / "books").iterdir())) == 60
    assert repro(project) == []


def test_metrics_and_plots_can_be_asked_for_before_anything_has_run(project):
    shutil.rmtree(project / "artifacts")
    shutil.rmtree(project / ".dvc" / "cache")
    (project / "dvc.lock").unlink()
    run(project, "git", "commit", "--quiet", "--all", "--message", "Forget")
    for command in (("metrics", "show"), ("metrics", "diff"), ("plots", "show"), ("plots", "diff")):
        run(project, "dvc", *command)
    assert run(project, "git", "status", "--porcelain") == ""
