"""What `dvc repro` runs again after a recipe has changed, with real DVC and the real stages."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from corpora import contents
from dvc_project import create, environment, repro, run, write
from tiny_recipe import RECIPE

from llmrecipe import (
    ByteLevelBPE,
    Fraction,
    Machine,
    Parallelism,
    Quantized,
    clean,
    dvcfiles,
    evolve,
    gate,
    measure,
    optimizer,
    scheme,
    times,
)
from llmrecipe.plan.planner import plan
from llmrecipe.recipe.recipe import Recipe
from llmrecipe.recipe.release import Release

pytestmark = pytest.mark.slow

TRAINED = evolve(RECIPE.models[0], text__clean=(clean.FixUnicode(), clean.ExactDedup()), text__heldout=Fraction(0.1))
BASE = evolve(
    RECIPE,
    models=(TRAINED, evolve(RECIPE.models[1], model=TRAINED)),
    measures=(measure.Perplexity(max_tokens=512), measure.Samples(prompts=("one",), max_new_tokens=4)),
)
MEASURED = ["tiny-perplexity", "tiny-samples"]
SMALLER_MEASURED = ["tiny-w4a16-perplexity", "tiny-w4a16-samples"]


def stale(project: Path) -> set[str]:
    """The stages that are stale in DVC's eyes for a reason of their own."""
    return set(json.loads(run(project, "dvc", "status", "--json")))


def changed(**changes: Any) -> Recipe:
    """The recipe with another training, from which its other model is made."""
    trained = evolve(TRAINED, **changes)
    return evolve(BASE, models=(trained, evolve(BASE.models[1], model=trained)))


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
    weights = project / "artifacts/tiny/train/checkpoint/model.safetensors"
    short = weights.read_bytes()[:-1]
    # A new file: the old one may be linked to DVC's cache, and an administrator may write into it.
    weights.unlink()
    weights.write_bytes(short)
    assert repro(project) == []
    assert contents(project / "artifacts") == before


@pytest.mark.parametrize(
    ("damaged", "reader", "in_cache"),
    [
        ("tiny/export/model/model.safetensors", "tiny-perplexity", False),
        ("tiny/export/model/manifest.json", "tiny-perplexity", True),
        ("tiny/perplexity/metrics.json", "small-report", True),
    ],
)
def test_a_flipped_bit_is_named_and_undone_by_what_the_message_says(project, damaged, reader, in_cache):
    before, path = contents(project / "artifacts"), project / "artifacts" / damaged
    # Since these are copies, DVC reads them once, and from then on goes by their times.
    assert repro(project) == []
    copies = [copy for copy in (project / ".dvc/cache").rglob("*") if copy.is_file()]
    copy = next(copy for copy in copies if copy.read_bytes() == path.read_bytes())
    for each in [path, copy] if in_cache else [path]:
        flip(each, path.stat().st_size // 2)
    assert repro(project) == []
    again = ("dvc", "repro", "--force", "--single-item", reader)
    done = subprocess.run(again, cwd=project, env=environment(project), capture_output=True, text=True)
    message = done.stdout + done.stderr
    assert done.returncode != 0
    assert f"artifacts/{damaged}: damaged" in message
    assert ("damaged, too" if in_cache else "is whole") in message
    way_back = re.search(r"copy is [^`]*`([^`]+)`", message)
    run(project, "bash", "-c", way_back[1])
    assert repro(project, *again[1:]) == [reader]
    assert contents(project / "artifacts") == before


def flip(path: Path, place: int) -> None:
    """Change a bit of a file as a bad disk does, so size and times stay."""
    status = path.stat()
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.chmod(0o644)
    path.write_bytes(content)
    path.chmod(status.st_mode)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_a_run_leaves_nothing_for_git_but_the_lock(finished):
    assert run(finished, "git", "show", "--name-only", "--format=").split() == [
        ".dvc/.gitignore", ".dvc/config", ".dvcignore", ".gitignore", "dvc.lock", "dvc.yaml", "params.yaml",
        *(f"params/{owner}.yaml" for owner in ("books-bpe-300", "books", "small", "tiny-w4a16", "tiny")),
    ]  # fmt: skip
    assert run(finished, "git", "status", "--porcelain") == ""


def test_in_a_project_without_rules_of_its_own_git_sees_nothing_that_stages_made(project):
    (project / ".gitignore").unlink()
    # As a stage leaves it that is killed while it writes.
    (project / "artifacts/tiny/.train.tmp").mkdir()
    (project / "artifacts/tiny/.train.tmp/model.safetensors").touch()
    seen = run(project, "git", "status", "--porcelain", "--untracked-files=all").split()
    assert not [path for path in seen if path.startswith(("artifacts/", ".llmrecipe/"))]
    assert repro(project, "repro", "--force", "--single-item", "small-report") == ["small-report"]
    assert not list((project / "artifacts").rglob("*/.gitignore"))


def test_another_quantization_reruns_quantize_and_what_is_measured_of_it_only(project):
    write(project, evolve(BASE, models=(TRAINED, evolve(BASE.models[1], scheme__group_size=16))))
    assert repro(project) == ["tiny-w4a16-quantize", *SMALLER_MEASURED, "small-report"]
    assert repro(project) == []


def test_a_second_recipe_of_the_same_training_trains_nothing(project):
    eight = evolve(BASE, name="eight", models=(TRAINED, Quantized(model=TRAINED, scheme=scheme.W8A16())))
    write(project, BASE, eight)
    assert repro(project, "repro", "eight-report") == [
        "tiny-w8a16-quantize",
        "tiny-w8a16-perplexity",
        "tiny-w8a16-samples",
        "eight-report",
    ]


def test_another_gate_reruns_the_release_alone_which_says_what_it_found_if_nothing_passes(project):
    models = (BASE.models[1], TRAINED)
    asked = evolve(BASE, release=Release(candidates=models, gates=(gate.Size(at_most_mb=0.1),)))
    write(project, asked)
    failed = subprocess.run(["dvc", "repro"], cwd=project, env=environment(project), capture_output=True, text=True)
    assert failed.returncode != 0
    assert re.findall(r"^Running stage '(.+)':$", failed.stdout, re.MULTILINE) == ["small-release"]
    assert "no candidate passes all gates:\n  tiny-w4a16: at most 0.1 MB: fails with " in failed.stderr
    write(project, evolve(asked, release__gates=(gate.Size(at_most_mb=100.0),)))
    assert repro(project) == ["small-release"]
    found = json.loads((project / "artifacts/small/release/metrics.json").read_text())
    assert found["released"] == "tiny-w4a16"
    weights = {
        name: contents(project / "artifacts" / name) for name in ("small/release/model", "tiny-w4a16/quantize/model")
    }
    changed = {"card.json", "manifest.json"}
    assert len({tuple(sorted((n, b) for n, b in each.items() if n not in changed)) for each in weights.values()}) == 1


def test_another_learning_rate_reruns_train_and_what_follows_and_shows_in_metrics_and_plots(project):
    write(project, changed(training__optimizer=optimizer.AdamW(learning_rate=3e-3)))
    assert repro(project) == [
        "tiny-train",
        "tiny-export",
        *MEASURED,
        "tiny-w4a16-quantize",
        *SMALLER_MEASURED,
        "small-report",
    ]

    metrics = json.loads(run(project, "dvc", "metrics", "diff", "--json"))
    assert metrics.keys() >= {f"artifacts/{folder}/metrics.json" for folder in ("tiny/train", "small/report")}
    loss = metrics["artifacts/tiny/train/metrics.json"]["loss"]
    assert loss["old"] != loss["new"]
    shown = json.loads(run(project, "dvc", "metrics", "show", "--json"))[""]["data"]
    assert shown["artifacts/tiny/train/metrics.json"]["data"]["loss"] == loss["new"]

    revisions = {
        title: {revision for plot in plots for revision in plot["revisions"]}
        for title, plots in json.loads(run(project, "dvc", "plots", "diff", "--json"))["data"].items()
    }
    both = {"HEAD", "workspace"}
    assert revisions == {
        "tiny-train loss": both,
        "tiny-train learning rate": both,
        "tiny-train gradient norm": both,
        "artifacts/small/report/frontier.svg": both,
    }


def test_times_are_those_of_the_run_whose_outputs_are_here(project, monkeypatch):
    monkeypatch.chdir(project)
    output = Path("artifacts/tiny/train")
    before = times.read("tiny-train", output)
    write(project, changed(training__seed=8))
    assert repro(project, "repro", "tiny-train") == ["tiny-train"]
    other = times.read("tiny-train", output)
    assert other["seconds"] != before["seconds"]

    write(project, BASE)
    assert repro(project) == []
    assert times.read("tiny-train", output) == before
    shutil.rmtree("artifacts")
    assert times.read("tiny-train", output) is None
    run(project, "dvc", "checkout")
    assert times.read("tiny-train", output) == before
    curve = (times.folder("tiny-train", output) / "throughput.csv").read_text().splitlines()
    assert len(curve) == TRAINED.training.duration.count + 1


def test_every_curve_is_drawn_from_numbers(finished):
    plots = json.loads(run(finished, "dvc", "plots", "show", "--json"))["data"]
    assert all(len(drawn) == 1 for drawn in plots.values())
    # A picture is shown as it is.
    (picture,) = plots.pop("artifacts/small/report/frontier.svg")
    assert Path(picture["url"]).name.endswith("frontier.svg")
    points = {title: drawn[0]["content"]["data"]["values"] for title, drawn in plots.items()}
    steps = TRAINED.training.duration.count
    assert {title: len(values) for title, values in points.items()} == {
        "tiny-train loss": steps + 1,
        "tiny-train learning rate": steps,
        "tiny-train gradient norm": steps,
    }
    for drawn in plots.values():
        axes = [drawn[0]["content"]["encoding"][axis]["field"] for axis in "xy"]
        for point in drawn[0]["content"]["data"]["values"]:
            assert all(float(point[axis]) > 0 for axis in axes)


def test_another_machine_reruns_nothing(project):
    machine = Machine(workers=1, log_level="debug", log_interval=1, device="cpu")
    machines = {"default": machine, "tiny": machine, "tiny-w4a16-quantize": machine}
    references = {BASE.name: "recipes/small.py"}
    assert dvcfiles.write(plan([BASE]), project, references=references, machines_of=machines)
    assert stale(project) == set()
    assert repro(project) == []


def test_a_dropped_measure_reruns_what_it_affected(project):
    write(project, evolve(BASE, measures=BASE.measures[:1]))
    assert repro(project) == ["small-report"]
    assert repro(project) == []


@pytest.mark.parametrize(
    ("recipe", "expected"),
    [
        (changed(training__clip_grad_norm=None), {"tiny-train"}),
        (changed(parallelism=Parallelism(data=2)), {"tiny-train"}),
        (changed(text__clean=()), {"books-prepare"}),
        (changed(text__clean=TRAINED.text.clean[:1]), {"books-prepare"}),
        # Of another name: the other's stages stay valid, and what read them reads this.
        (
            changed(tokenizer=ByteLevelBPE(vocab_size=280)),
            {"books-bpe-280-tokenizer", "books-bpe-280-tokenize", "tiny-train", "tiny-export", "tiny-perplexity",
             "tiny-w4a16-quantize", "tiny-w4a16-perplexity"},
        ),
        (evolve(BASE, models=BASE.models[:1]), {"small-report"}),
    ],
)  # fmt: skip
def test_a_changed_or_dropped_field_makes_its_own_stage_stale(project, recipe, expected):
    write(project, recipe)
    assert stale(project) == expected
    write(project, BASE)
    assert stale(project) == set()


def test_a_key_deleted_from_a_section_by_hand_makes_its_stage_stale(project):
    params = project / "params/tiny.yaml"
    text = params.read_text()
    params.write_text(text.replace("    clip_grad_norm: 1.0\n", ""))
    assert params.read_text() != text
    assert stale(project) == {"tiny-train"}


def test_an_experiment_can_set_a_field_without_a_recipe(project):
    # DVC writes 9e-05, a number to it and to YAML 1.2, a text to YAML 1.1.
    setting = "params/tiny-w4a16.yaml:tiny-w4a16-quantize.scheme.rounding.dampening_frac=9e-5"
    assert repro(project, "exp", "run", "--set-param", setting)[0] == "tiny-w4a16-quantize"
    assert "dampening_frac: 9e-05\n" in (project / "params/tiny-w4a16.yaml").read_text()


def test_an_experiment_with_another_objective_is_one_for_all_that_reads_the_model(project):
    setting = "params/tiny.yaml:tiny-train.objective.restart_at_documents=true"
    assert repro(project, "exp", "run", "--set-param", setting) == [
        "tiny-train",
        "tiny-export",
        *MEASURED,
        "tiny-w4a16-quantize",
        *SMALLER_MEASURED,
        "small-report",
    ]
    for folder in ("tiny/train/checkpoint", "tiny/export/model", "tiny-w4a16/quantize/model"):
        card = json.loads((project / "artifacts" / folder / "card.json").read_text())
        assert card["objective"]["restart_at_documents"] is True
    # What is measured is read as the training reads: the same as that of a recipe with this objective.
    measured = json.loads((project / "artifacts/tiny/perplexity/metrics.json").read_text())
    other = shutil.copytree(project, project.with_name("other"), symlinks=True)
    write(other, changed(objective__restart_at_documents=True))
    assert repro(other) == []
    assert measured == json.loads((other / "artifacts/tiny/perplexity/metrics.json").read_text())


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


def test_files_that_a_stage_of_ones_own_makes_are_made_first(tmp_path):
    project = create(tmp_path / "project", BASE)
    shutil.move(project / "data/books", project / "raw")
    own = {"cmd": "mkdir -p data && cp -r raw data/books", "deps": ["raw"], "outs": ["data/books"]}
    dvc = yaml.safe_load((project / "dvc.yaml").read_text())
    (project / "dvc.yaml").write_text(yaml.safe_dump({"stages": dvc["stages"] | {"zz": own}}))
    (project / "recipes").mkdir()
    (project / "recipes/small.py").write_text("import tiny_recipe\ndef small():\n    return tiny_recipe.RECIPE\n")
    paths = {"PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run(["llmrecipe", "check", "small"], cwd=project, env=environment(project) | paths, check=True)
    assert repro(project, "repro", "books-prepare") == ["zz", "books-prepare"]
