"""The examples, finetune and measure stages of a task whose answers are written."""

import json

import pytest
import tiny_model
import tiny_tasks
from transformers import AutoModelForCausalLM, AutoTokenizer

from llmrecipe import Fraction, artifacts, cards, evolve, measure
from llmrecipe.cards import ModelCard
from llmrecipe.engines.tasks import examples, sandbox
from llmrecipe.errors import StageError
from llmrecipe.recipe.measure import ANSWERS, ERRORS, SCORES
from llmrecipe.sections import ExamplesSection, MeasureSection
from llmrecipe.stages import examples as examples_stage
from llmrecipe.stages import finetune
from llmrecipe.stages import measure as measure_stage

pytestmark = pytest.mark.slow

CHATS = evolve(tiny_tasks.CHATS, test=Fraction(0.2), max_length=64)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A model that was fine-tuned by the stage, and what it was made of, by role."""
    root = tmp_path_factory.mktemp("made")
    (root / "chats.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in tiny_tasks.chats(200)))
    context = tiny_model.stage_context(ExamplesSection(task=CHATS), {"train": root / "chats.jsonl"}, root / "read")
    examples_stage.run(context)
    inputs = {"start": tiny_tasks.make_writer(root / "start"), "examples": root / "read" / "examples"}
    tuning = evolve(tiny_tasks.TUNING, epochs=12, dropout=None)
    context = tiny_tasks.stage_context(tiny_tasks.section(CHATS, tuning), inputs, root / "tuned")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "llmrecipe.engines.finetuning.running.run_ranks",
            lambda _name, _module, arguments, **_: tiny_tasks.train_here(arguments),
        )
        finetune.run(context)
    return inputs | {"model": root / "tuned" / "model", "read": root / "read"}


def run_measure(what, inputs, output):
    given = {role: inputs[role] for role in ("model", "examples")}
    measure_stage.run(tiny_model.stage_context(MeasureSection(measure=what), given, output, device="cpu"))
    return output


def may_lock_in():
    """Whether this kernel lets programs be locked in."""
    try:
        sandbox.refuse_forbidden()
    except StageError:
        return False
    return True


@pytest.fixture(scope="module")
def measured(made, tmp_path_factory):
    return run_measure(measure.Task(max_new_tokens=16), made, tmp_path_factory.mktemp("measured") / "out")


def test_messages_are_counted(made):
    numbers = artifacts.read_json(made["read"] / "metrics.json")
    rows = examples.read(made["examples"], "train")
    answers = sum(message["role"] == "assistant" for row in rows for message in row["messages"])
    assert numbers["train"]["labels"] == {"assistant": answers, "user": answers}


def test_a_plain_program_gets_the_template_and_answers_by_it(made, measured):
    tokenizer = AutoTokenizer.from_pretrained(made["model"])
    model = AutoModelForCausalLM.from_pretrained(made["model"]).eval()
    rows = examples.read(made["examples"], "test")
    right = 0
    for row in rows:
        asked = tokenizer.apply_chat_template(
            row["messages"][:-1], add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        said = model.generate(**asked, do_sample=False, max_new_tokens=16, pad_token_id=0)
        text = tokenizer.decode(said[0, asked["input_ids"].shape[1] :], skip_special_tokens=True).strip()
        right += text == row["messages"][-1]["content"]
    wrong = [json.loads(line) for line in (measured / ERRORS).read_text().splitlines()]
    assert len(rows) - len(wrong) == right


def test_the_model_keeps_that_it_predicts_text(made):
    card = cards.read(made["model"], ModelCard)
    assert (card.task.task, card.task.labels) == (CHATS.on_examples, ())
    assert not (made["start"] / "chat_template.jinja").exists()


def test_numbers_of_written_answers_are_left_with_intervals(measured):
    numbers, scores = artifacts.read_json(measured / "metrics.json"), artifacts.read_json(measured / SCORES)
    assert {"loss", "perplexity", "bleu", "chrf", "rougeL", "exact_match"} <= set(numbers)
    assert {"loss", "bleu", "rougeL"} <= set(numbers["intervals"])
    assert set(scores) == {*CHATS.scores} - {"pass_at_1"}
    assert (measured / ANSWERS).read_text().startswith("<svg")


def test_the_same_measurement_writes_the_same_bytes(made, measured, tmp_path):
    again = run_measure(measure.Task(max_new_tokens=16), made, tmp_path / "out")
    for name in ("metrics.json", SCORES, ERRORS, ANSWERS):
        assert (again / name).read_bytes() == (measured / name).read_bytes()


def test_programs_are_run_in_a_sandbox_or_refused_where_there_is_none(made, tmp_path):
    asked = measure.Task(max_new_tokens=16, run_code=True, samples=2)
    if not may_lock_in():
        with pytest.raises(StageError, match="the kernel refuses to lock them in"):
            run_measure(asked, made, tmp_path / "out")
        return
    out = run_measure(asked, made, tmp_path / "out")
    numbers = artifacts.read_json(out / "metrics.json")
    assert 0 <= numbers["pass_at_1"] <= numbers["pass_at_2"] <= 1
