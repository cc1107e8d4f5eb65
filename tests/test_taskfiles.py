"""What is wrong with lm-eval's files is said before anything runs, and without lm-eval."""

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from strategies import SMALL

from llmrecipe import Machine, evolve, gate, measure, preflight
from llmrecipe.recipe import checks
from llmrecipe.recipe.release import Release
from llmrecipe.taskfiles import TaskFiles

PLACES = {
    "task": "places",
    "dataset_path": "json",
    "dataset_kwargs": {"data_files": {"test": "data/*.jsonl"}},
    "test_split": "test",
}


@pytest.fixture
def project(tmp_path):
    (tmp_path / "evals/data").mkdir(parents=True)
    (tmp_path / "evals/data/places.jsonl").write_text("{}\n")
    write(tmp_path, "places", PLACES)
    return tmp_path


def write(project: Path, name: str, said: dict[str, Any] | str) -> None:
    text = said if isinstance(said, str) else yaml.safe_dump(said)
    (project / f"evals/{name}.yaml").write_text(text)


def found(project: Path, *tasks: str, folder: str = "evals", planned: tuple[str, ...] = ()) -> dict[str, str]:
    recipe = evolve(SMALL, measures=(*SMALL.measures, measure.LMEval(tasks=tasks or ("places",), folder=folder)))
    index = len(SMALL.measures)
    violations = preflight.violations(recipe, project, planned)
    return {each.path.removeprefix(f"small.measures[{index}]."): each.reason for each in violations}


def test_tasks_groups_and_tags_are_found_with_what_they_include(project):
    write(project, "base", {**PLACES, "task": None, "tag": "all"})
    write(project, "lower", "include: base.yaml\ntask: lower\nprocess_docs: !function any.thing\n")
    write(project, "both", {"group": "both", "task": ["places", {"task": "lower", "num_fewshot": 2}]})
    files = TaskFiles.read(project / "evals")

    assert files.names == ["all", "both", "lower", "places"]
    assert [name for name, _ in files.tasks("all")] == ["lower"]
    both = dict(files.tasks("both"))
    assert both["lower"]["num_fewshot"] == 2
    assert both["lower"]["dataset_kwargs"] == PLACES["dataset_kwargs"]
    assert found(project, "all", "both", "lower", "places") == {}


def test_groups_that_hold_each_other_have_an_end(project):
    write(project, "one", {"group": "one", "task": ["two", "places"]})
    write(project, "two", {"group": "two", "task": ["one"]})

    assert [name for name, _ in TaskFiles.read(project / "evals").tasks("one")] == ["places"]


def test_a_task_that_no_file_defines_is_refused_with_those_there_are(project):
    write(project, "broken", "task: [")
    write(project, "round", "include: round.yaml\ntask: round\n")

    refused = found(project, "plaices")

    said = refused.pop("tasks[0]")
    assert refused == {}
    assert said.startswith("'evals': no YAML file there defines 'plaices'; did you mean 'places'? (known: places)")
    assert "; broken.yaml can't be read: while parsing" in said
    assert "; round.yaml can't be read: round.yaml includes itself" in said


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"dataset_path": "cais/mmlu"}, "asks for the data set 'cais/mmlu' of the Hub, which isn't fetched; put"),
        ({"dataset_path": None}, "names no data set; put"),
        ({"dataset_kwargs": {}}, "names no files to read as 'json'; put"),
        ({"dataset_kwargs": {"data_files": ["../places.jsonl"]}}, "reads '../places.jsonl', which leads out of the"),
        ({"dataset_kwargs": {"data_files": "https://a.b/c"}}, "reads 'https://a.b/c', which leads out of the folder"),
        (
            {"dataset_kwargs": {"data_files": "places.jsonl"}},
            "reads 'places.jsonl', and the folder has no such file; paths",
        ),
        ({"metric_list": [{"metric": "squad", "hf_evaluate": True}]}, "asks for the metric 'squad' of the Hub"),
    ],
)
def test_what_is_fetched_or_missing_is_refused_also_in_a_group(project, changes, said):
    write(project, "places", {**PLACES, **changes})
    write(project, "together", {"group": "together", "task": ["places"]})

    refused = found(project, "places", "together")

    assert refused.keys() == {"tasks[0]", "tasks[1]"}
    assert all(f"'evals': 'places' {said}" in reason for reason in refused.values())


@pytest.mark.parametrize(
    "changes", [{"dataset_path": "data", "dataset_kwargs": {}}, {"dataset_path": None, "custom_dataset": "any.thing"}]
)
def test_a_folder_of_data_and_code_that_brings_it_are_fine(project, changes):
    write(project, "places", {**PLACES, **changes})

    assert found(project) == {}


def test_a_folder_that_is_not_there_is_refused_unless_a_stage_makes_it(project):
    assert found(project, folder="tests") == {
        "folder": "there is no folder 'tests'; write files of tasks there, as lm-eval reads them"
    }
    assert "leads out of the project" in found(project, folder="../evals")["folder"]
    assert found(project, folder="made/evals", planned=("made/evals",)) == {}


def test_files_that_dvc_keeps_are_to_be_pulled(project):
    (project / "evals/places.yaml").unlink()
    (project / "evals/places.yaml.dvc").write_text("outs: [{path: places.yaml}]")

    assert "`dvc pull` brings that" in found(project)["folder"]


def test_a_machine_without_lm_eval_is_told_of_the_extra(monkeypatch):
    recipe = evolve(SMALL, measures=(*SMALL.measures, measure.LMEval(tasks=("places",), folder="evals")))
    known = importlib.util.find_spec
    assert preflight.warnings(recipe, Machine(device="cpu")) == preflight.warnings(SMALL, Machine(device="cpu"))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "lm_eval" else known(name))

    (warned,) = (each for each in preflight.warnings(recipe, Machine(device="cpu")) if "measures" in each.path)

    assert warned.reason == "LMEval, and lm-eval isn't installed here; `pip install 'llmrecipe[lmeval]'`"


def test_a_recovery_asks_for_a_number_of_a_task():
    def said(**asked: Any) -> dict[str, str]:
        release = Release(candidates=SMALL.models, gates=(gate.Recovery(at_least=0.9, measure="lmeval", **asked),))
        measures = (*SMALL.measures, measure.LMEval(tasks=("places",), folder="evals"))
        return {each.path: each.reason for each in checks.violations(evolve(SMALL, measures=measures, release=release))}

    assert said(number="places_acc") == {}
    (reason,) = said().values()
    assert reason == "is missing, and 'lmeval' is LMEval; add one of a metric, such as number='places_acc'"


def test_files_are_read_without_what_computes():
    code = (
        "import sys, llmrecipe.taskfiles, llmrecipe.preflight; "
        "sys.exit(bool({'torch', 'datasets', 'lm_eval'} & {*sys.modules}))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
