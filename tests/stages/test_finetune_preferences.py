"""The examples, finetune and measure stages of preferences, of a model that has learned to answer before."""

import json

import pytest
import tiny_model
import tiny_tasks
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from llmrecipe import Fraction, artifacts, cards, evolve, measure
from llmrecipe.cards import ModelCard
from llmrecipe.engines.tasks import examples
from llmrecipe.recipe.measure import ANSWERS, ERRORS, SCORES
from llmrecipe.sections import ExamplesSection, MeasureSection
from llmrecipe.stages import examples as examples_stage
from llmrecipe.stages import finetune
from llmrecipe.stages import measure as measure_stage

pytestmark = pytest.mark.slow

CHATS = evolve(tiny_tasks.CHATS, max_length=64)

CHOICES = evolve(tiny_tasks.CHOICES, test=Fraction(0.3), template="own")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A model that was fine-tuned by the stage, twice, and what it was made of, by role."""
    root = tmp_path_factory.mktemp("made")
    (root / "pairs.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in tiny_tasks.choices(60)))
    context = tiny_model.stage_context(ExamplesSection(task=CHOICES), {"train": root / "pairs.jsonl"}, root / "read")
    examples_stage.run(context)
    start, chats = tiny_tasks.make_writer(root / "start"), tiny_tasks.make_chats(root / "chats")
    once = evolve(tiny_tasks.TUNING, epochs=1, dropout=None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "llmrecipe.engines.finetuning.running.run_ranks",
            lambda _name, _module, arguments, **_: tiny_tasks.train_here(arguments),
        )
        inputs = {"start": start, "examples": chats}
        finetune.run(tiny_tasks.stage_context(tiny_tasks.section(CHATS, once), inputs, root / "first"))
        inputs = {"start": root / "first" / "model", "examples": root / "read" / "examples"}
        finetune.run(tiny_tasks.stage_context(tiny_tasks.section(CHOICES, once), inputs, root / "second"))
    return inputs | {"model": root / "second" / "model", "read": root / "read"}


def run_measure(inputs, output, **others):
    given = {role: inputs[role] for role in ("model", "examples")} | others
    section = MeasureSection(measure=measure.Task())
    measure_stage.run(tiny_model.stage_context(section, given, output, device="cpu"))
    return output


@pytest.fixture(scope="module")
def measured(made, tmp_path_factory):
    return run_measure(made, tmp_path_factory.mktemp("measured") / "out")


def test_the_longer_answers_are_counted(made):
    numbers = artifacts.read_json(made["read"] / "metrics.json")
    rows = examples.read(made["examples"], "train")
    longer = sum(len(row["chosen"]) > len(row["rejected"]) for row in rows)
    assert numbers["train"]["labels"]["chosen_is_longer"] == longer
    # Pairs of the same chat are all in one split.
    assert (numbers["validation"]["in_training_too"], numbers["test"]["in_training_too"]) == (0, 0)


def test_the_chat_template_of_the_start_is_kept(made):
    template = (made["start"] / "chat_template.jinja").read_bytes()
    assert b"Assistant" in template
    assert (made["model"] / "chat_template.jinja").read_bytes() == template
    card = cards.read(made["model"], ModelCard)
    assert card.task.task == CHOICES.on_examples


def test_what_is_measured_is_what_a_plain_program_finds(made, measured):
    tokenizer = AutoTokenizer.from_pretrained(made["model"])
    model = AutoModelForCausalLM.from_pretrained(made["model"]).eval()
    margins = {}
    for row in examples.read(made["examples"], "test"):
        costs = []
        for side in ("chosen", "rejected"):
            chat = [*row["messages"], {"role": "assistant", "content": row[side]}]
            before = tokenizer.apply_chat_template(row["messages"], tokenize=False, add_generation_prompt=True)
            whole = tokenizer.apply_chat_template(chat, tokenize=False).removesuffix("\n")
            ids = torch.tensor([tokenizer(whole)["input_ids"]])
            labels = ids.clone()
            labels[:, : len(tokenizer(before)["input_ids"])] = -100
            with torch.inference_mode():
                costs.append(model(input_ids=ids, labels=labels).loss.item())
        margins[row["id"]] = costs[1] - costs[0]
    numbers = artifacts.read_json(measured / "metrics.json")
    assert numbers["margin"] == pytest.approx(sum(margins.values()) / len(margins), rel=1e-4)
    assert numbers["accuracy"] == pytest.approx(sum(margin > 0 for margin in margins.values()) / len(margins))
    wrong = sorted((name for name, margin in margins.items() if margin <= 0), key=margins.__getitem__)
    assert [json.loads(line)["id"] for line in (measured / ERRORS).read_text().splitlines()] == wrong


def test_numbers_are_those_that_the_task_names(measured):
    numbers, scores = artifacts.read_json(measured / "metrics.json"), artifacts.read_json(measured / SCORES)
    assert tuple(scores) == CHOICES.scores
    assert {name for name, number in numbers.items() if isinstance(number, float)} == {
        *CHOICES.scores,
        *CHOICES.numbers,
    }
    assert set(numbers["intervals"]) == {"accuracy"}
    assert (measured / ANSWERS).read_text().startswith("<svg")


def test_it_learns_what_its_start_did_not_know(made, measured, tmp_path):
    """The start has learned another task, so its card is given that of these examples."""
    start = tmp_path / "start"
    start.mkdir()
    for file in made["start"].iterdir():
        if file.name not in ("card.json", "manifest.json"):
            (start / file.name).write_bytes(file.read_bytes())
    cards.write(start, cards.read(made["model"], ModelCard))
    artifacts.seal(start, "model")
    before = artifacts.read_json(run_measure(made, tmp_path / "out", model=start) / "metrics.json")
    after = artifacts.read_json(measured / "metrics.json")
    assert after["margin"] > before["margin"]


def test_the_same_measurement_writes_the_same_bytes(made, measured, tmp_path):
    again = run_measure(made, tmp_path / "out")
    for name in ("metrics.json", SCORES, ERRORS, ANSWERS):
        assert (again / name).read_bytes() == (measured / name).read_bytes()
