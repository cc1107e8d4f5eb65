"""What lm-eval says of a model here is what it says by itself, and what the model's own logits say."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_model
import torch
import yaml
from lm_eval import simple_evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from transformers import AutoModelForCausalLM, AutoTokenizer

from llmrecipe import artifacts, cards
from llmrecipe.cards import ModelCard
from llmrecipe.engines.evaluation import lmeval
from llmrecipe.engines.evaluation.recovery import Measured, recovery
from llmrecipe.errors import StageError
from llmrecipe.recipe.measure import LMEval
from llmrecipe.recipe.objective import MaskedLM
from llmrecipe.recipe.scheme import W4A16
from llmrecipe.sections import MeasureSection, QuantizeSection
from llmrecipe.stages import measure, quantize

PLACES = ("here", "over there", "at the very end of the long road")

METRICS = [{"metric": name, "aggregation": "mean", "higher_is_better": True} for name in ("acc", "acc_norm")]

CHOICE = {
    "task": "places",
    "dataset_path": "json",
    "dataset_kwargs": {"data_files": {"test": "data/places.jsonl", "train": "data/shown.jsonl"}},
    "test_split": "test",
    "fewshot_split": "train",
    "output_type": "multiple_choice",
    "doc_to_text": "Where is {{what}}?\nIt is",
    "doc_to_choice": "{{places}}",
    "doc_to_target": "answer",
    "metric_list": METRICS,
}

WRITING = {
    **{key: CHOICE[key] for key in ("dataset_path", "dataset_kwargs", "test_split", "doc_to_text")},
    "task": "writing",
    "output_type": "generate_until",
    "doc_to_target": "{{places[answer]}}",
    "generation_kwargs": {"until": ["\n"], "max_gen_toks": 4},
    "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
}

READING = {
    **{key: CHOICE[key] for key in ("dataset_path", "dataset_kwargs", "test_split")},
    "task": "reading",
    "output_type": "loglikelihood_rolling",
    "doc_to_text": "",
    "doc_to_target": "Where is {{what}}? It is {{places[0]}}.",
    "metric_list": [{"metric": "byte_perplexity"}],
}


def documents(count: int, start: int = 0) -> str:
    rows = ({"what": f"thing {i}", "places": PLACES, "answer": i * 7 % 3} for i in range(start, start + count))
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    return tiny_model.make(folder) | {"tasks": write(folder / "tasks")}


@pytest.fixture(scope="module")
def quantized(made, tmp_path_factory):
    folder = tmp_path_factory.mktemp("quantized") / "out"
    section = QuantizeSection(scheme=W4A16(group_size=32), calibration_samples=16, seed=0)
    quantize.run(tiny_model.stage_context(section, made, folder))
    return made | {"model": folder / "model"}


def write(folder: Path, *tasks: dict[str, Any]) -> Path:
    """A folder of tasks, of three unless given."""
    (folder / "data").mkdir(parents=True)
    (folder / "data/places.jsonl").write_text(documents(40))
    (folder / "data/shown.jsonl").write_text(documents(9, start=100))
    for task in tasks or (CHOICE, WRITING, READING):
        (folder / f"{task.get('task', 'group')}.yaml").write_text(yaml.safe_dump(task))
    return folder


def measured(inputs: dict[str, Path], output: Path, **asked: Any) -> dict[str, Any]:
    """What `metrics.json` holds."""
    what = LMEval(**{"folder": "tasks", "tasks": ("places",)} | asked)
    measure.run(tiny_model.stage_context(MeasureSection(measure=what), inputs, output))
    return json.loads((output / "metrics.json").read_text())


def by_itself(model: Path, tasks: Path, names: list[str], patch: pytest.MonkeyPatch, **options: Any) -> dict[str, Any]:
    """What lm-eval says of a model that it loads, on files that it finds itself."""
    patch.chdir(tasks)
    patch.setattr("datasets.config.HF_DATASETS_CACHE", str(tasks.parent / "cache"))
    # Which takes seconds.
    patch.setattr("lm_eval.evaluator.add_env_info", lambda _: None)
    lm = HFLM(pretrained=str(model), backend="causal", device="cpu", batch_size=3)
    seeds = dict.fromkeys(("random_seed", "numpy_random_seed", "torch_random_seed", "fewshot_random_seed"), 5)
    manager = TaskManager(include_path=str(tasks), include_defaults=False)
    return simple_evaluate(lm, tasks=names, task_manager=manager, bootstrap_iters=0, **seeds, **options)["results"]


@pytest.mark.slow
@pytest.mark.parametrize("inputs", ["made", "quantized"])
def test_numbers_are_those_that_lm_eval_gives_by_itself(inputs, request, tmp_path, monkeypatch):
    inputs = request.getfixturevalue(inputs)
    names = ["places", "writing", "reading"]
    asked = {"tasks": tuple(names), "num_fewshot": 2, "limit": 31, "seed": 5}

    found = measured(inputs, tmp_path / "out", **asked)

    theirs = by_itself(inputs["model"], inputs["tasks"], names, monkeypatch, num_fewshot=2, limit=31)
    metrics = {"places": ("acc", "acc_norm"), "writing": ("exact_match",), "reading": ("byte_perplexity",)}
    for task, keys in metrics.items():
        for key in keys:
            assert found[f"{task}_{key}"] == pytest.approx(theirs[task][f"{key},none"], rel=1e-5)
    assert found["tasks"] == {name: {"examples": 31, "fewshot": 2} for name in names}
    assert 0 < found["places_acc"] < 1 < found["reading_byte_perplexity"]
    # No mean over documents.
    assert found["intervals"].keys() == {"places_acc", "places_acc_norm", "writing_exact_match"}


def test_a_choice_is_that_of_the_models_own_logits(made, tmp_path):
    network, tokenizer = (
        AutoModelForCausalLM.from_pretrained(made["model"]),
        AutoTokenizer.from_pretrained(made["model"]),
    )
    rows = [json.loads(line) for line in documents(40).splitlines()]
    logs = np.zeros((40, len(PLACES)))
    for index, row in enumerate(rows):
        question = tokenizer(f"Where is {row['what']}?\nIt is")["input_ids"]
        for number, place in enumerate(PLACES):
            whole = torch.tensor(tokenizer(f"Where is {row['what']}?\nIt is {place}")["input_ids"])
            assert whole[: len(question)].tolist() == question
            with torch.no_grad():
                each = network(whole[None]).logits[0].double().log_softmax(-1)
            places = torch.arange(len(question), len(whole))
            logs[index, number] = each[places - 1, whole[places]].sum().item()
    answers = np.array([row["answer"] for row in rows])
    right = logs.argmax(1) == answers
    normed = (logs / [len(place) for place in PLACES]).argmax(1) == answers

    found = measured(made, tmp_path / "out")

    assert found["places_acc"] == right.mean()
    assert found["places_acc_norm"] == normed.mean()
    scores = json.loads((tmp_path / "out/scores.json").read_text())
    assert scores["places_acc"]["documents"] == right.tolist()
    low, high = (found["intervals"]["places_acc"][end] for end in ("low", "high"))
    assert low < right.mean() < high
    assert (high - low) / 2 == pytest.approx(1.96 * right.std() / np.sqrt(40), rel=0.15)
    errors = [json.loads(line) for line in (tmp_path / "out/errors.jsonl").read_text().splitlines()]
    missed = logs.max(1) - logs[np.arange(40), answers]
    assert {error["id"] for error in errors} == {*np.flatnonzero(~right).tolist()}
    for error in errors:
        assert error["surprise"] == pytest.approx(missed[error["id"]], rel=1e-3)
        assert error["expected"] == PLACES[answers[error["id"]]]
        assert error["answered"] == PLACES[logs[error["id"]].argmax()]
    assert [error["surprise"] for error in errors] == sorted((error["surprise"] for error in errors), reverse=True)


def test_what_is_written_wrongly_is_listed_as_it_is_written(made, tmp_path):
    measured(made, tmp_path / "out", tasks=("writing",), limit=3)

    network, tokenizer = (
        AutoModelForCausalLM.from_pretrained(made["model"]),
        AutoTokenizer.from_pretrained(made["model"]),
    )
    errors = [json.loads(line) for line in (tmp_path / "out/errors.jsonl").read_text().splitlines()]
    assert [error["expected"] for error in errors] == [PLACES[0], PLACES[1], PLACES[2]]
    for error in errors:
        question = tokenizer(error["text"], return_tensors="pt")["input_ids"]
        written = network.generate(question, max_new_tokens=4, do_sample=False)[0, question.shape[1] :]
        assert error["answered"] == tokenizer.decode(written, skip_special_tokens=True).split("\n")[0]


def test_the_same_bytes_come_of_another_run_and_nothing_else_is_left(made, tmp_path, monkeypatch):
    for name in ("HF_DATASETS_CACHE", "HF_MODULES_CACHE"):
        monkeypatch.setattr(f"datasets.config.{name}", tmp_path / "home")
    monkeypatch.chdir(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in made["tasks"].rglob("*")}
    for name in ("one", "two"):
        measured(made, tmp_path / name, tasks=("writing", "places"), num_fewshot=3)

    kept = {}
    for name in ("one", "two"):
        files = sorted((tmp_path / name).rglob("*"))
        kept[name] = {path.name: path.read_bytes() for path in files if path.is_file()}
    assert kept["one"] == kept["two"]
    assert kept["one"].keys() == {"metrics.json", "scores.json", "errors.jsonl"}
    assert not any(str(tmp_path).encode() in content for content in kept["one"].values())
    assert {path: path.stat().st_mtime_ns for path in made["tasks"].rglob("*")} == before
    assert not (tmp_path / "home").exists()
    assert Path.cwd() == tmp_path


def test_a_model_keeps_all_of_itself_and_not_of_other_questions(made, tmp_path):
    measured(made, tmp_path / "all")
    model = tiny_model.write_model(tiny_model.new_model(), made["model"], tmp_path / "untrained")
    measured(made | {"model": model}, tmp_path / "less")
    measured(made, tmp_path / "other", num_fewshot=1)
    card = cards.read(made["model"], ModelCard)
    of = {
        name: Measured(card=card, numbers={}, scores=tmp_path / name / "scores.json")
        for name in ("all", "less", "other")
    }

    itself = recovery(of["all"], of["all"])["recoveries"]["places_acc"]
    less = recovery(of["all"], of["less"])["recoveries"]["places_acc"]

    assert itself == {
        "recovery_percent": 100,
        "recovery_low_percent": 100,
        "recovery_high_percent": 100,
        "recovery_documents": 40,
    }
    scores = [artifacts.read_json(of[name].scores)["places_acc"]["documents"] for name in ("less", "all")]
    assert less["recovery_percent"] == pytest.approx(100 * sum(scores[0]) / sum(scores[1]))
    assert recovery(of["all"], of["other"]) == {}


@pytest.mark.slow
def test_functions_groups_includes_and_filters_work_as_in_lm_eval(made, tmp_path, monkeypatch):
    folder = write(tmp_path / "tasks", CHOICE)
    (folder / "common").write_text(yaml.safe_dump(WRITING))
    (folder / "some.py").write_text("def few(docs):\n    return docs.select(range(35))\n")
    (folder / "first.yaml").write_text(
        "include: common\ntask: first\nprocess_docs: !function some.few\n"
        "filter_list: [{name: letter, filter: [{function: regex, regex_pattern: '(.)'}, {function: take_first}]}]\n"
    )
    together = {"group": "together", "task": ["places", "first"], "aggregate_metric_list": [{"metric": "acc"}]}
    (folder / "together.yaml").write_text(yaml.safe_dump(together))
    monkeypatch.setattr(sys, "dont_write_bytecode", False)

    found = measured({"model": made["model"], "tasks": folder}, tmp_path / "out", tasks=("together",))

    assert not list(folder.rglob("__pycache__"))
    theirs = by_itself(made["model"], folder, ["together"], monkeypatch)
    assert found["first_exact_match_letter"] == theirs["first"]["exact_match,letter"]
    assert found["together_acc"] == found["places_acc"] == pytest.approx(theirs["places"]["acc,none"])
    assert found["tasks"]["first"]["examples"] == 35
    assert found["intervals"].keys() == {"places_acc", "places_acc_norm", "first_exact_match_letter"}


def test_a_number_below_zero_has_neither_interval_nor_recovery(made, tmp_path):
    scored = {
        "process_results": "FUNCTION",
        "metric_list": [{**METRICS[0], "metric": name} for name in ("gain", "loss")],
    }
    folder = write(tmp_path / "tasks", {**CHOICE, **scored})
    text = (folder / "places.yaml").read_text().replace("FUNCTION", "!function scored.each")
    (folder / "places.yaml").write_text(text)
    (folder / "scored.py").write_text(
        "def each(document, answers):\n    return {'gain': document['answer'] - 1, 'loss': document['answer']}\n"
    )

    found = measured({"model": made["model"], "tasks": folder}, tmp_path / "out")

    answers = [json.loads(line)["answer"] for line in documents(40).splitlines()]
    assert found["places_gain"] == pytest.approx(np.mean(answers) - 1)
    assert found["intervals"].keys() == {"places_loss"}
    assert json.loads((tmp_path / "out/scores.json").read_text())["places_loss"]["documents"] == answers


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"dataset_path": "cais/mmlu"}, "'places' asks for the data set 'cais/mmlu' of the Hub, which isn't fetched"),
        ({"metric_list": [{"metric": "frechet"}]}, "metric 'frechet', which lm-eval doesn't have; it has acc,"),
        ({"metric_list": [{"metric": "squad", "hf_evaluate": True}]}, "'squad' of the Hub \\(hf_evaluate\\)"),
        ({"test_split": "validation"}, "lm-eval can't ask for places \\(KeyError: 'validation'\\)"),
        (
            {"output_type": "generate_until", "doc_to_choice": None, "doc_to_target": "{{what}}"},
            "generate \\(256\\) must be less",
        ),
    ],
)
def test_what_cannot_be_asked_is_refused(made, tmp_path, changes, said):
    task = {**CHOICE, **changes}
    if task["output_type"] == "generate_until":
        # As many tokens as the model reads at once are to be written.
        task["metric_list"] = WRITING["metric_list"]
    folder = write(tmp_path / "tasks", task)

    with pytest.raises(StageError, match=said):
        measured({"model": made["model"], "tasks": folder}, tmp_path / "out")


def test_code_that_asks_for_a_data_set_of_the_hub_finds_no_network(made, tmp_path):
    folder = write(tmp_path / "tasks")
    (folder / "bring.py").write_text(
        "import datasets\n\ndef documents(**_):\n    return datasets.load_dataset('cais/mmlu', 'anatomy')\n"
    )
    (folder / "brought.yaml").write_text("task: brought\ncustom_dataset: !function bring.documents\ntest_split: test\n")

    with pytest.raises(StageError, match="OfflineModeIsEnabled"):
        measured({"model": made["model"], "tasks": folder}, tmp_path / "out", tasks=("brought",))


def test_without_lm_eval_the_extra_is_named(made, tmp_path, monkeypatch):
    monkeypatch.setattr(lmeval.importlib.util, "find_spec", lambda _: None)

    with pytest.raises(StageError, match=r"pip install 'llmrecipe\[lmeval\]'"):
        measured(made, tmp_path / "out")


def test_a_model_that_fills_masks_is_not_asked(made, tmp_path):
    model = tiny_model.new_model()
    masked = tiny_model.write_model(
        model, made["model"], tmp_path / "masked", objective=MaskedLM(sequence_length=tiny_model.SEQUENCE_LENGTH)
    )

    with pytest.raises(StageError, match="LMEval asks how a text goes on, which MaskedLM doesn't learn"):
        measured(made | {"model": masked}, tmp_path / "out")
