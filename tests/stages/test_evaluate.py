"""Evaluation measures what it says, checked by hand, by closed forms and against transformers."""

import json
import math
import textwrap
from pathlib import Path

import numpy as np
import pytest
import tiny_model
import torch
from llmrecipe.recipe.compression import W4A16
from llmrecipe.recipe.evaluation import Perplexity, Samples
from plain_training import documents
from transformers import AutoModelForCausalLM, AutoTokenizer

from llmrecipe.errors import StageError
from llmrecipe.recipe.objective import CausalLM
from llmrecipe.sections import EvaluateSection, QuantizeSection
from llmrecipe.stages import evaluate, quantize

LENGTH = tiny_model.SEQUENCE_LENGTH


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    made = tiny_model.make(folder)
    section = QuantizeSection(scheme=W4A16(group_size=32), calibration_samples=16, sequence_length=LENGTH, seed=0)
    quantize.run(tiny_model.stage_context(section, made, folder / "quantize"))
    return {"tokens": made["tokens"], "dense": made["model"], "quantized": folder / "quantize/model"}


def evaluated(inputs: dict[str, Path], output: Path, *measures) -> tuple[dict, dict]:
    section = EvaluateSection(measures=measures, objective=CausalLM(sequence_length=LENGTH))
    evaluate.run(tiny_model.stage_context(section, inputs, output))
    return tuple(json.loads((output / name).read_text()) for name in ("metrics.json", "samples.json"))


def heldout(tokens: Path) -> np.ndarray:
    return np.fromfile(tokens / "heldout/00000.ds", "<u2").astype(np.int64)


def losses(model: Path, row: np.ndarray) -> torch.Tensor:
    """Cross-entropy of every target, one window after the other, from the log-probabilities themselves."""
    network = AutoModelForCausalLM.from_pretrained(model, dtype="auto")
    found = []
    for start in range(0, len(row) - LENGTH, LENGTH):
        inputs = torch.from_numpy(row[start : start + LENGTH])
        targets = torch.from_numpy(row[start + 1 : start + LENGTH + 1])
        with torch.no_grad():
            logits = network(inputs[None]).logits[0].double()
        found.append(logits.logsumexp(-1) - logits[torch.arange(LENGTH), targets])
    return torch.cat(found)


def with_logits_of(change, tmp_path: Path, made) -> dict[str, Path]:
    """Inputs whose dense model is a random one after `change`."""
    model = tiny_model.new_model()
    with torch.no_grad():
        change(model)
    return {"tokens": made["tokens"], "dense": tiny_model.write_model(model, made["dense"], tmp_path / "changed")}


def test_perplexity_is_that_of_the_log_probabilities_and_recovery_their_ratio(made, tmp_path):
    metrics, _ = evaluated(made, tmp_path / "out", Perplexity())
    row = heldout(made["tokens"])
    for role in ("dense", "quantized"):
        expected = math.exp(losses(made[role], row).mean())
        assert metrics[role]["perplexity"] == pytest.approx(expected, rel=1e-5)
        assert metrics[role]["size_mb"] == (made[role] / "model.safetensors").stat().st_size / 1e6
    recovery = 100 * metrics["dense"]["perplexity"] / metrics["quantized"]["perplexity"]
    assert metrics["quantized"]["recovery_percent"] == pytest.approx(recovery)
    assert 90 < recovery < 105
    assert "recovery_percent" not in metrics["dense"]
    assert metrics["dense"]["perplexity"] < metrics["unigram"]["perplexity"] < 320


def test_at_most_max_tokens_are_read(made, tmp_path):
    metrics, _ = evaluated(made, tmp_path / "out", Perplexity(max_tokens=3 * LENGTH + LENGTH - 1))
    expected = math.exp(losses(made["dense"], heldout(made["tokens"])[: 3 * LENGTH + 1]).mean())
    assert metrics["dense"]["perplexity"] == pytest.approx(expected, rel=1e-5)


def test_documents_are_read_by_themselves_where_the_training_did(made, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(made["dense"])
    lines = [line for page in tiny_model.documents(textwrap) for line in page.splitlines()][:80]
    tokens = tiny_model.write_tokens(tmp_path / "tokens", {"train": [["q"]], "heldout": [lines]}, tokenizer)
    objective = CausalLM(sequence_length=LENGTH, restart_at_documents=True)
    section = EvaluateSection(measures=(Perplexity(),), objective=objective)
    context = tiny_model.stage_context(section, {"tokens": tokens, "dense": made["dense"]}, tmp_path / "out")
    evaluate.run(context)

    network, row = AutoModelForCausalLM.from_pretrained(made["dense"]), torch.from_numpy(heldout(tokens))
    found = []
    for start in range(0, len(row) - LENGTH, LENGTH):
        pieces = documents(row[start : start + LENGTH], begin=0)
        with torch.no_grad():
            logits = torch.cat([network(piece).logits[0] for piece in pieces])
        found.append(torch.nn.functional.cross_entropy(logits, row[start + 1 : start + LENGTH + 1]))
    mean = torch.stack(found).mean().item()
    metrics = json.loads((context.output / "metrics.json").read_text())
    assert metrics["dense"]["perplexity"] == pytest.approx(math.exp(mean), rel=1e-5)
    assert mean != pytest.approx(losses(made["dense"], row.numpy()).mean().item(), rel=1e-3)


def test_a_mixture_weighs_the_losses_of_its_corpora(made, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(made["dense"])
    pages = tiny_model.documents(textwrap)
    other = tiny_model.write_tokens(tmp_path / "other", {"train": [pages[4:]], "heldout": [pages[:4]]}, tokenizer)
    inputs = {"tokens.code": made["tokens"], "tokens.text": other, "dense": made["dense"]}
    section = EvaluateSection(
        measures=(Perplexity(max_tokens=40 * LENGTH),), objective=CausalLM(sequence_length=LENGTH), weights=(3.0, 1.0)
    )
    context = tiny_model.stage_context(section, inputs, tmp_path / "out")
    evaluate.run(context)

    found = json.loads((context.output / "metrics.json").read_text())["dense"]
    means = {
        name: losses(made["dense"], heldout(tokens)[: windows * LENGTH + 1]).mean().item()
        for name, tokens, windows in (("code", made["tokens"], 30), ("text", other, 10))
    }
    assert found["perplexity"] == pytest.approx(math.exp(0.75 * means["code"] + 0.25 * means["text"]), rel=1e-5)
    for name, mean in means.items():
        assert found["corpora"][name]["perplexity"] == pytest.approx(math.exp(mean), rel=1e-5)


def test_a_model_that_knows_nothing_has_the_perplexity_of_its_vocabulary(made, tmp_path):
    inputs = with_logits_of(lambda model: model.lm_head.weight.zero_(), tmp_path, made)
    metrics, _ = evaluated(inputs, tmp_path / "out", Perplexity())
    assert metrics["dense"]["perplexity"] == pytest.approx(384, rel=1e-6)


def test_bits_per_byte_are_the_bits_over_the_bytes_that_the_predicted_tokens_stand_for(made, tmp_path):
    metrics, _ = evaluated(made, tmp_path / "out", Perplexity())
    row, tokenizer = heldout(made["tokens"]), AutoTokenizer.from_pretrained(made["dense"])
    targets = row[1 : (len(row) - 1) // LENGTH * LENGTH + 1]
    # Byte by byte: every token of a byte-level vocabulary is as long as its text, and end-of-text is nothing.
    text = tokenizer.decode([i for i in targets if i != tokenizer.eos_token_id])
    bits = losses(made["dense"], row).sum().item() / math.log(2)
    # The stage takes the split's mean bytes a token for those of the targets.
    assert metrics["dense"]["bits_per_byte"] == pytest.approx(bits / len(text.encode()), rel=2e-3)


def test_bits_per_byte_of_a_split_by_hand(made, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(made["dense"])
    # Four documents of one byte a token: 33 targets and a first token, of which 30 and one are text.
    documents = ["q" * 7] * 3 + ["q" * 10]
    tokens = tiny_model.write_tokens(tmp_path / "tokens", {"train": [["q"]], "heldout": [documents]}, tokenizer)
    description = json.loads((tokens / "tokens.json").read_text())["splits"]["heldout"]
    assert (description["tokens"], description["text_bytes"]) == (35, 31)
    inputs = with_logits_of(lambda model: model.lm_head.weight.zero_(), tmp_path, made | {"tokens": tokens})
    metrics, _ = evaluated(inputs, tmp_path / "out", Perplexity())
    # The first window: 32 targets, 3 of them end-of-text; each costs log2(384) bits and 29 stand for a byte.
    assert metrics["dense"]["bits_per_byte"] == pytest.approx(32 * math.log2(384) / 29, rel=1e-6)
    # Training tokens: q and end-of-text once each, of a vocabulary of 320.
    unigram = 320 + 2
    assert metrics["unigram"]["perplexity"] == pytest.approx(unigram / 2, rel=1e-9)


def test_completions_are_the_likeliest_tokens_and_those_of_transformers(made, tmp_path):
    prompts = ("def ", "class Option")
    _, samples = evaluated(made, tmp_path / "out", Samples(prompts=prompts, max_new_tokens=12))
    for role in ("dense", "quantized"):
        model = AutoModelForCausalLM.from_pretrained(made[role], dtype="auto")
        tokenizer = AutoTokenizer.from_pretrained(made[role])
        assert [sample["prompt"] for sample in samples[role]] == list(prompts)
        for sample in samples[role]:
            encoded = tokenizer(sample["prompt"], return_tensors="pt")
            generated = model.generate(**encoded, max_new_tokens=12, do_sample=False, pad_token_id=0)[0].tolist()
            row = encoded["input_ids"][0].tolist()
            prompt_length = len(row)
            for _ in range(12):
                with torch.no_grad():
                    row.append(model(torch.tensor([row])).logits[0, -1].argmax().item())
                if row[-1] == tokenizer.eos_token_id:
                    break
            assert generated == row
            assert sample["completion"] == tokenizer.decode(row[prompt_length:], skip_special_tokens=True)


def test_a_completion_ends_with_its_text(made, tmp_path):
    # Equal logits: the first token of the vocabulary, which is the end of the text.
    inputs = with_logits_of(lambda model: model.lm_head.weight.zero_(), tmp_path, made)
    _, samples = evaluated(inputs, tmp_path / "out", Samples(prompts=("x",)))
    assert samples == {"dense": [{"prompt": "x", "completion": ""}]}


def test_two_runs_give_the_same_bytes(made, tmp_path):
    measures = Perplexity(max_tokens=2000), Samples(prompts=("def ",), max_new_tokens=5)
    texts = []
    for place in ("here", "some/where/else"):
        evaluated(made, tmp_path / place, *measures)
        texts.append([(tmp_path / place / name).read_bytes() for name in ("metrics.json", "samples.json")])
    assert texts[0] == texts[1]


def test_broken_weights_are_refused(made, tmp_path):
    inputs = with_logits_of(lambda model: model.model.norm.weight.fill_(math.nan), tmp_path, made)
    with pytest.raises(StageError, match="dense: the loss on held-out text is nan"):
        evaluated(inputs, tmp_path / "out", Perplexity())


def test_a_split_that_is_too_short_is_refused(made, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(made["dense"])
    tokens = tiny_model.write_tokens(tmp_path / "tokens", {"train": [["q"]], "heldout": [["qq"]]}, tokenizer)
    with pytest.raises(StageError, match=r"held-out split has 3 tokens .* too little for one sequence of 32"):
        evaluated(made | {"tokens": tokens}, tmp_path / "out", Perplexity())


def test_fewer_tokens_than_a_sequence_are_refused(made, tmp_path):
    with pytest.raises(StageError, match="max_tokens: 31 is less than one sequence of 32"):
        evaluated(made, tmp_path / "out", Perplexity(max_tokens=31))


def test_missing_models_are_named(made, tmp_path):
    with pytest.raises(StageError, match="nowhere: no model artifact here"):
        evaluated(made | {"quantized": tmp_path / "nowhere"}, tmp_path / "out", Perplexity())


def test_a_gpu_that_is_not_there_is_refused(made, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    section = EvaluateSection(measures=(Perplexity(),), objective=CausalLM(sequence_length=LENGTH))
    context = tiny_model.stage_context(section, made, tmp_path / "out", device="cuda")
    with pytest.raises(StageError, match=r"runtime.device: 'cuda' was asked for"):
        evaluate.run(context)
