"""A model that answers questions, from files of SQuAD to its numbers and to programs that use it."""

import json
from pathlib import Path

import pytest
import tiny_distillation
import tiny_model
import tiny_tasks
import torch
from safetensors.torch import load_file
from transformers import AutoModelForQuestionAnswering, AutoTokenizer

from llmrecipe import Fraction, artifacts, cards, evolve, measure, scheme
from llmrecipe.cards import ExamplesCard, ModelCard
from llmrecipe.engines.evaluation.recovery import Measured, recovery
from llmrecipe.engines.tasks import examples, squad
from llmrecipe.engines.tasks.question_answering import Answerer
from llmrecipe.errors import RecipeError, StageError
from llmrecipe.recipe.measure import ANSWERS, ERRORS, SCORES
from llmrecipe.sections import ExamplesSection, MeasureSection, QuantizeSection
from llmrecipe.stages import examples as examples_stage
from llmrecipe.stages import finetune, quantize
from llmrecipe.stages import measure as measure_stage

pytestmark = pytest.mark.slow

ASKED = evolve(tiny_tasks.QUESTIONS, train="train.json", test="test.jsonl", validation=Fraction(0.2))


def squad_file(rows) -> str:
    """As version 2.0 has it, an article for each question."""
    articles = []
    for row in rows:
        pairs = zip(*row["answers"].values(), strict=True)
        answers = [{"text": text, "answer_start": start} for text, start in pairs]
        asked = {"id": row["id"], "question": row["question"], "answers": answers, "is_impossible": not answers}
        articles.append({"title": row["id"], "paragraphs": [{"context": row["context"], "qas": [asked]}]})
    return json.dumps({"version": "v2.0", "data": articles})


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A model that was fine-tuned by the stage, and what it was made of, by role."""
    root = tmp_path_factory.mktemp("made")
    (root / "train.json").write_text(squad_file(tiny_tasks.asked(100)))
    (root / "test.jsonl").write_text("\n".join(map(json.dumps, tiny_tasks.asked(45, seed=1))))
    inputs = {"train": root / "train.json", "test": root / "test.jsonl"}
    examples_stage.run(tiny_model.stage_context(ExamplesSection(task=ASKED), inputs, root / "examples-stage"))
    trained = {"start": tiny_tasks.make_start(root / "start"), "examples": root / "examples-stage" / "examples"}
    section = tiny_tasks.section(ASKED, evolve(tiny_tasks.TUNING, epochs=8))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "llmrecipe.engines.finetuning.running.run_ranks",
            lambda _name, _module, arguments, **_: tiny_tasks.train_here(arguments),
        )
        finetune.run(tiny_tasks.stage_context(section, trained, root / "tuned"))
    return trained | {"model": root / "tuned" / "model", "read": root / "examples-stage"}


@pytest.fixture(scope="module")
def measured(made, tmp_path_factory):
    return run_measure(made, tmp_path_factory.mktemp("measured") / "out")


def run_measure(inputs, output) -> Path:
    given = {role: inputs[role] for role in ("model", "examples")}
    section = MeasureSection(measure=measure.Task())
    measure_stage.run(tiny_model.stage_context(section, given, output, device="cpu"))
    return output


def test_examples_are_counted_with_and_without_an_answer(made):
    assert cards.read(made["examples"], ExamplesCard).examples == {"train": 80, "validation": 20, "test": 45}
    numbers = artifacts.read_json(made["read"] / "metrics.json")
    assert numbers["test"]["labels"] == {"answerable": 30, "unanswerable": 15}


def test_the_card_says_how_it_reads(made):
    assert cards.read(made["model"], ModelCard).task.task == ASKED.on_examples


def test_it_has_learned_and_its_numbers_are_of_squad(made, measured):
    numbers = artifacts.read_json(measured / "metrics.json")
    answerer, rows = Answerer(made["model"]), examples.read(made["examples"], "test")
    said = [answerer(row["question"], row["context"]) for row in rows]
    own = squad.scores(said, [row["answers"]["text"] for row in rows])
    for name, score in own.items():
        assert numbers[name] == pytest.approx(score.value)
        assert numbers["intervals"][name]["low"] <= numbers[name] <= numbers["intervals"][name]["high"]
    assert numbers["f1"] > 0.6
    assert numbers["f1"] == pytest.approx((30 * numbers["has_answer_f1"] + 15 * numbers["no_answer_accuracy"]) / 45)
    assert 0 <= numbers["calibration_error"] <= 1
    errors = [json.loads(line) for line in (measured / ERRORS).read_text().splitlines()]
    assert len(errors) == sum(not each for each in artifacts.read_json(measured / SCORES)["exact_match"]["documents"])
    assert (measured / ANSWERS).read_text().startswith("<svg")


def test_a_plain_program_gets_the_answers_of_what_is_read_at_once(made):
    model = AutoModelForQuestionAnswering.from_pretrained(made["model"]).eval()
    tokenizer, answerer = AutoTokenizer.from_pretrained(made["model"]), Answerer(made["model"])
    compared = 0
    for row in examples.read(made["examples"], "test"):
        question = [*tokenizer(row["question"])["input_ids"], tokenizer.eos_token_id]
        context = tokenizer(row["context"], return_offsets_mapping=True)
        if len(question) + len(context["input_ids"]) > ASKED.max_length:
            continue
        with torch.no_grad():
            found = model(input_ids=torch.tensor([[*question, *context["input_ids"]]]))
        starts, ends = found.start_logits[0].tolist(), found.end_logits[0].tolist()
        spans = [
            (starts[one] + ends[other], one, other)
            for one in range(len(question), len(starts))
            for other in range(one, min(one + ASKED.max_answer_length, len(ends)))
        ]
        best, one, other = max(spans)
        offsets = context["offset_mapping"]
        text = row["context"][offsets[one - len(question)][0] : offsets[other - len(question)][1]].strip()
        assert answerer(row["question"], row["context"]) == (text if best >= starts[0] + ends[0] else "")
        compared += 1
    assert compared > 5


def test_a_quantized_answerer_is_measured_with_what_it_recovers(made, measured, tmp_path):
    texts = tiny_model.documents(tiny_model.argparse)
    tokenizer = AutoTokenizer.from_pretrained(made["start"])
    splits = {"train": [texts[:20]], "heldout": [texts[20:30]]}
    tokens = tiny_model.write_tokens(tmp_path / "tokens", splits, tokenizer, masking=tiny_distillation.MASKING)
    section = QuantizeSection(scheme=scheme.W8A16(), calibration_samples=4, seed=0)
    inputs = {"model": made["model"], "tokens": tokens}
    quantize.run(tiny_model.stage_context(section, inputs, tmp_path / "rounded", device="cpu"))
    rounded = tmp_path / "rounded" / "model"
    heads = [load_file(each / "model.safetensors")["qa_outputs.weight"] for each in (rounded, made["model"])]
    assert torch.equal(*heads)
    out = run_measure(made | {"model": rounded}, tmp_path / "out")
    both = [
        Measured(
            card=cards.read(model, ModelCard), numbers=artifacts.read_json(each / "metrics.json"), scores=each / SCORES
        )
        for model, each in ((made["model"], measured), (rounded, out))
    ]
    kept = recovery(*both)["recoveries"]["f1"]
    assert kept["recovery_percent"] == pytest.approx(100 * both[1].numbers["f1"] / both[0].numbers["f1"])
    assert kept["recovery_documents"] == 45


def test_an_answerer_refuses_a_model_without_the_task(made):
    with pytest.raises(StageError, match="wasn't fine-tuned for QuestionAnswering"):
        Answerer(made["start"])


def test_a_decoder_is_refused_with_the_reason(made, tmp_path):
    theirs = tiny_model.make(tmp_path / "decoder")
    inputs = {"start": theirs["model"], "examples": made["examples"]}
    with pytest.raises(RecipeError, match="Llama reads a word before what comes after it"):
        finetune.run(tiny_tasks.stage_context(tiny_tasks.section(ASKED), inputs, tmp_path / "out"))
