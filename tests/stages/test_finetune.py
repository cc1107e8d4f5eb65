"""The examples, finetune and measure stages of a task: what they leave, and what they refuse."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import tiny_distillation
import tiny_model
import tiny_tasks
import torch
from safetensors.torch import load_file
from seqeval.metrics import f1_score
from sklearn.metrics import classification_report
from transformers import AutoModelForTokenClassification, AutoTokenizer

from llmrecipe import Fraction, artifacts, cards, evolve, measure, scheme, task
from llmrecipe.cards import ExamplesCard, ModelCard
from llmrecipe.engines.evaluation.bootstrap import ratio
from llmrecipe.engines.evaluation.recovery import Measured, recovery
from llmrecipe.engines.tasks import examples
from llmrecipe.engines.tasks.named_entities import Tagger
from llmrecipe.errors import RecipeError, StageError
from llmrecipe.recipe.measure import ANSWERS, ERRORS, SCORES
from llmrecipe.sections import ExamplesSection, MeasureSection, QuantizeSection
from llmrecipe.stages import examples as examples_stage
from llmrecipe.stages import finetune, quantize
from llmrecipe.stages import measure as measure_stage

pytestmark = pytest.mark.slow

CASED = evolve(
    tiny_tasks.NAMES, case_as_token_types=True, validation=Fraction(0.2), test="test.conll", train="train.conll"
)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A model that was fine-tuned by the stage, and what it was made of, by role."""
    root = tmp_path_factory.mktemp("made")
    (root / "train.conll").write_text(tiny_tasks.conll(80))
    (root / "test.conll").write_text(tiny_tasks.conll(60, seed=1))
    inputs = {"train": root / "train.conll", "test": root / "test.conll"}
    context = tiny_model.stage_context(ExamplesSection(task=CASED), inputs, root / "examples-stage")
    examples_stage.run(context)
    trained = {"start": tiny_tasks.make_start(root / "start"), "examples": root / "examples-stage" / "examples"}
    tuning = evolve(tiny_tasks.TUNING, epochs=4)
    context = tiny_tasks.stage_context(tiny_tasks.section(CASED, tuning), trained, root / "tuned")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "llmrecipe.engines.finetuning.running.run_ranks",
            lambda _name, _module, arguments, **_: tiny_tasks.train_here(arguments),
        )
        finetune.run(context)
    return trained | {"model": root / "tuned" / "model", "tuned": root / "tuned", "read": root / "examples-stage"}


@pytest.fixture(scope="module")
def measured(made, tmp_path_factory):
    return run_measure(measure.Task(), made, tmp_path_factory.mktemp("measured") / "out")


def run_measure(what, inputs, output) -> Path:
    given = {role: inputs[role] for role in ("model", "examples")}
    measure_stage.run(tiny_model.stage_context(MeasureSection(measure=what), given, output, device="cpu"))
    return output


def test_examples_are_sealed_with_their_labels_and_counts(made):
    card = cards.read(made["examples"], ExamplesCard)
    assert card.labels == ("O", "B-LOC", "I-LOC", "B-PER", "I-PER")
    assert card.examples == {"train": 64, "validation": 16, "test": 60}
    numbers = artifacts.read_json(made["read"] / "metrics.json")
    assert numbers["test"]["labels"] == {"LOC": 60, "PER": 60}
    train = {json.dumps(row["words"]) for row in examples.read(made["examples"], "train")}
    again = sum(json.dumps(row["words"]) in train for row in examples.read(made["examples"], "test"))
    assert numbers["test"]["in_training_too"] == again > 0


def test_the_stage_leaves_a_model_with_its_card_curves_and_numbers(made):
    card = cards.read(made["model"], ModelCard)
    assert (card.made_by, card.task.task) == ("finetune", CASED.on_examples)
    assert card.network.type_vocab_size == 4
    numbers = artifacts.read_json(made["tuned"] / "metrics.json")
    with open(made["tuned"] / "validation.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    best = max(rows, key=lambda row: float(row["validation_score"]))
    assert numbers["step"] == int(best["step"])
    assert numbers["validation_score"] == float(best["validation_score"])
    assert not (made["tuned"] / "scratch").exists()


def tags_by_hand(made, *, types):
    """What transformers alone says of the test sentences, with or without how words are written."""
    model = AutoModelForTokenClassification.from_pretrained(made["model"]).eval()
    tokenizer = AutoTokenizer.from_pretrained(made["model"])
    own, said, allowed = [], [], []
    for row in examples.read(made["examples"], "test"):
        text, ends = " ".join(row["words"]), []
        for word in row["words"]:
            ends.append(len(word) + (ends[-1] + 1 if ends else 0))
        encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, return_tensors="pt")
        words = [next(index for index, end in enumerate(ends) if to <= end) for _, to in encoded["offset_mapping"][0]]
        cases = [0 if word.islower() or not word.isalpha() else 1 for word in row["words"]]
        kinds = torch.tensor([[cases[word] if types else 0 for word in words]])
        with torch.no_grad():
            logits = model(input_ids=encoded["input_ids"], token_type_ids=kinds).logits[0]
        first = [words.index(word) for word in range(len(row["words"]))]
        own.append(row["tags"])
        said.append([model.config.id2label[index] for index in logits[first].argmax(-1).tolist()])
        allowed.append(logits[first].log_softmax(-1).numpy())
    return own, said, allowed


def test_numbers_are_those_of_a_program_by_hand(made, measured):
    numbers = artifacts.read_json(measured / "metrics.json")
    own, said, _ = tags_by_hand(made, types=False)
    assert numbers["plain"]["entity_f1"] == pytest.approx(f1_score(own, said))
    flat = [[tag for tags in side for tag in tags] for side in (own, said)]
    labels = cards.read(made["examples"], ExamplesCard).labels
    report = classification_report(*flat, labels=labels, output_dict=True, zero_division=0)
    assert numbers["plain"]["word_macro_f1"] == pytest.approx(report["macro avg"]["f1-score"])
    own, said, _ = tags_by_hand(made, types=True)
    assert Tagger(made["model"])([row["words"] for row in examples.read(made["examples"], "test")]) is not None
    # With types, and Viterbi, it can only allow more.
    assert numbers["entity_f1"] >= f1_score(own, said) - 0.05
    assert numbers["entity_f1"] > 0.5


def test_a_tagger_says_what_was_measured(made, measured):
    rows = examples.read(made["examples"], "test")
    said = Tagger(made["model"])([row["words"] for row in rows])
    assert f1_score([row["tags"] for row in rows], said) == pytest.approx(
        artifacts.read_json(measured / "metrics.json")["entity_f1"]
    )


def test_a_tagger_refuses_a_model_without_the_task(made):
    with pytest.raises(StageError, match="wasn't fine-tuned for NamedEntities"):
        Tagger(made["start"])


def test_intervals_scores_errors_and_the_picture_are_left(made, measured):
    numbers, scores = (artifacts.read_json(measured / name) for name in ("metrics.json", SCORES))
    each = scores["entity_f1"]
    assert sum(each["documents"]) / sum(each["over"]) == pytest.approx(numbers["entity_f1"])
    low, high = ratio(np.array(each["documents"]), np.array(each["over"]))
    assert numbers["intervals"]["entity_f1"] == {"low": low, "high": high}
    assert low <= numbers["entity_f1"] <= high
    assert numbers["intervals"].keys() == {*tiny_tasks.NAMES.scores, *tiny_tasks.NAMES.numbers}
    assert all(ends["low"] <= numbers[name] <= ends["high"] for name, ends in numbers["intervals"].items())
    errors = [json.loads(line) for line in (measured / ERRORS).read_text().splitlines()]
    assert errors == sorted(errors, key=lambda error: -error["surprise"])
    wrong = sum(one != other for one, other in zip(each["documents"], each["over"], strict=True))
    assert len(errors) == wrong
    assert (measured / ANSWERS).read_text().startswith("<svg")


def test_the_same_measurement_gives_the_same_bytes(made, measured, tmp_path):
    again = run_measure(measure.Task(), made, tmp_path / "out")
    for name in ("metrics.json", SCORES, ERRORS, ANSWERS):
        assert (again / name).read_bytes() == (measured / name).read_bytes()


def test_validation_examples_are_measured_on_request(made, tmp_path):
    found = artifacts.read_json(run_measure(measure.Task(split="validation"), made, tmp_path / "out") / "metrics.json")
    chosen = artifacts.read_json(made["tuned"] / "metrics.json")
    assert found["examples"] == 16
    assert found["entity_f1"] == pytest.approx(chosen["validation_score"], abs=0.05)


def test_a_quantized_tagger_is_measured_with_what_it_recovers(made, measured, tmp_path):
    texts = tiny_model.documents(tiny_model.argparse)
    tokenizer = AutoTokenizer.from_pretrained(made["start"])
    splits = {"train": [texts[:20]], "heldout": [texts[20:30]]}
    tokens = tiny_model.write_tokens(tmp_path / "tokens", splits, tokenizer, masking=tiny_distillation.MASKING)
    section = QuantizeSection(scheme=scheme.W8A16(), calibration_samples=4, seed=0)
    inputs = {"model": made["model"], "tokens": tokens}
    quantize.run(tiny_model.stage_context(section, inputs, tmp_path / "rounded", device="cpu"))
    rounded = tmp_path / "rounded" / "model"
    heads = [load_file(each / "model.safetensors")["classifier.weight"] for each in (rounded, made["model"])]
    assert torch.equal(*heads)
    card = cards.read(rounded, ModelCard)
    assert card.task == cards.read(made["model"], ModelCard).task
    out = run_measure(measure.Task(), made | {"model": rounded}, tmp_path / "out")
    both = [
        Measured(card=card, numbers=artifacts.read_json(each / "metrics.json"), scores=each / SCORES)
        for each in (measured, out)
    ]
    kept = recovery(*both)["recoveries"]["entity_f1"]
    assert kept["recovery_percent"] == pytest.approx(100 * both[1].numbers["entity_f1"] / both[0].numbers["entity_f1"])
    assert kept["recovery_documents"] == 60
    assert kept["recovery_low_percent"] <= kept["recovery_percent"] <= kept["recovery_high_percent"]


def test_other_examples_than_those_of_its_task_are_refused(made, tmp_path):
    rows = [[{"id": str(index), "text": "a", "label": "xy"[index % 2]}] for index in range(20)]
    other = tiny_tasks.make(tmp_path, task.Classification(name="c", train="t.csv"), {"train": rows})
    with pytest.raises(StageError, match=r"has learned named_entities of O, .*, and the examples in .* are of class"):
        run_measure(measure.Task(), made | {"examples": other}, tmp_path / "out")


def test_examples_of_another_task_are_refused_before_a_step(made, tmp_path):
    section = tiny_tasks.section(tiny_tasks.TONES)
    inputs = {role: made[role] for role in ("start", "examples")}
    with pytest.raises(StageError, match="are examples of named_entities, and tiny-stage learns classification"):
        finetune.run(tiny_tasks.stage_context(section, inputs, tmp_path / "out"))


def test_a_task_that_a_model_cannot_learn_is_refused_as_such(made, tmp_path):
    theirs = tiny_model.make(tmp_path / "decoder")
    section = tiny_tasks.section(evolve(CASED, max_length=100_000))
    inputs = {"start": theirs["model"], "examples": made["examples"]}
    with pytest.raises(RecipeError) as error:
        finetune.run(tiny_tasks.stage_context(section, inputs, tmp_path / "out"))
    assert "Llama reads a word before what comes after it" in str(error.value)
    assert "task.max_length: 100000, and the model reads at most" in str(error.value)


def test_a_decoder_learns_to_classify(tmp_path):
    theirs = tiny_model.make(tmp_path / "decoder")
    rows = [
        [{"id": str(index), "text": f"def {'f(x)' if index % 2 else 'class'}", "label": "xy"[index % 2]}]
        for index in range(60)
    ]
    inputs = {"start": theirs["model"], "examples": tiny_tasks.make(tmp_path, tiny_tasks.TONES, {"train": rows})}
    run = tiny_tasks.tuned(
        tiny_tasks.section(tiny_tasks.TONES, evolve(tiny_tasks.TUNING, epochs=6)), inputs, tmp_path / "run"
    )
    assert run.metrics[-1]["loss"] < 0.7 * run.metrics[0]["loss"]
    assert run.metrics[-1]["validation_score"] == 1.0
