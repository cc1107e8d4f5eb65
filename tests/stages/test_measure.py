"""A measurement is what it says, checked by hand, by closed forms and against transformers."""

import itertools
import json
import math
import optparse
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import tiny_model
import torch
import yaml
from plain_training import documents
from transformers import AutoModelForCausalLM, AutoTokenizer

from llmrecipe import artifacts, cards
from llmrecipe.cards import MixtureCard, TokensCard
from llmrecipe.errors import StageError
from llmrecipe.recipe.custom_measure import CustomMeasure, CustomScores
from llmrecipe.recipe.measure import LayerErrors, Measure, Perplexity, PseudoPerplexity, Samples
from llmrecipe.recipe.objective import CausalLM
from llmrecipe.recipe.schema import define
from llmrecipe.recipe.scheme import W4A16
from llmrecipe.sections import MeasureSection, QuantizeSection
from llmrecipe.stages import measure, quantize

LENGTH = tiny_model.SEQUENCE_LENGTH


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    made = tiny_model.make(folder)
    section = QuantizeSection(scheme=W4A16(group_size=32), calibration_samples=16, seed=0)
    quantize.run(tiny_model.stage_context(section, made, folder / "quantize"))
    return made | {"quantized": folder / "quantize/model"}


def measured(inputs: dict[str, Path], output: Path, asked: Measure) -> dict[str, Any]:
    """What `metrics.json` holds."""
    measure.run(tiny_model.stage_context(MeasureSection(measure=asked), inputs, output))
    return json.loads((output / "metrics.json").read_text())


def rows(output: Path) -> list[dict[str, Any]]:
    """What `documents.jsonl` holds."""
    return [json.loads(line) for line in (output / "documents.jsonl").read_text().splitlines()]


def both(made: dict[str, Path]) -> dict[str, dict[str, Path]]:
    """Inputs by model: of the dense one and of the quantized one."""
    return {name: {"model": made[name], "tokens": made["tokens"]} for name in ("model", "quantized")}


def mixture(directory: Path, tokens: dict[str, Path], shares: tuple[float, ...]) -> dict[str, Path]:
    """The inputs that a mixture of these corpora gives."""
    digests = tuple(artifacts.file_digest(path / artifacts.MANIFEST) for path in tokens.values())
    directory.mkdir()
    cards.write(directory, MixtureCard(corpora=tuple(tokens), shares=shares, tokens=digests))
    artifacts.seal(directory, "mixture")
    return {"mixture": directory} | {f"tokens.{name}": path for name, path in tokens.items()}


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
    """Inputs whose model is a random one after `change`."""
    model = tiny_model.new_model()
    with torch.no_grad():
        change(model)
    return {"tokens": made["tokens"], "model": tiny_model.write_model(model, made["model"], tmp_path / "changed")}


def test_perplexity_is_that_of_the_log_probabilities(made, tmp_path):
    row, found = heldout(made["tokens"]), {}
    for name, inputs in both(made).items():
        found[name] = measured(inputs, tmp_path / name, Perplexity())
        expected = math.exp(losses(made[name], row).mean())
        assert found[name]["perplexity"] == pytest.approx(expected, rel=1e-5)
    assert found["model"]["unigram"] == found["quantized"]["unigram"]
    assert found["model"]["perplexity"] < found["model"]["unigram"]["perplexity"] < 320
    assert found["model"]["perplexity"] != found["quantized"]["perplexity"]


def test_documents_have_their_own_sums_which_add_up_to_the_metrics(made, tmp_path):
    asked = Perplexity(max_tokens=100 * LENGTH)
    metrics, row = measured(made, tmp_path / "out", asked), heldout(made["tokens"])
    found, tokenizer = rows(tmp_path / "out"), AutoTokenizer.from_pretrained(made["model"])

    # By hand: the targets of 100 sequences, cut at end-of-text tokens; the first token of all is no target.
    nats, targets = losses(made["model"], row[: 100 * LENGTH + 1]), row[1 : 100 * LENGTH + 1]
    stops = [0, *(np.flatnonzero(targets == tokenizer.eos_token_id) + 1).tolist(), len(targets)]
    assert len(found) == len(stops) - 1 > 2
    for document, (start, stop) in zip(found, itertools.pairwise(stops), strict=True):
        assert set(document) == {"id", "tokens", "bytes", "loss"}
        assert document["tokens"] == stop - start
        assert document["loss"] == pytest.approx(nats[start:stop].sum().item(), rel=1e-5)
    assert len({document["id"] for document in found}) == len(found)
    assert sum(document["tokens"] for document in found) == 100 * LENGTH
    total = math.fsum(document["loss"] for document in found)
    assert metrics["perplexity"] == pytest.approx(math.exp(total / (100 * LENGTH)), rel=1e-12)

    # A document that was read whole has all its bytes, one that was cut those of its share of tokens.
    texts = [text.encode() for text in tiny_model.documents(optparse)]
    for document, text in list(zip(found, texts, strict=False))[1:-1]:
        assert document["bytes"] == len(text)
    whole = len(tokenizer(texts[len(found) - 1].decode())["input_ids"])
    assert found[-1]["bytes"] == pytest.approx(len(texts[len(found) - 1]) * found[-1]["tokens"] / whole)


def test_at_most_max_tokens_are_read(made, tmp_path):
    metrics = measured(made, tmp_path / "out", Perplexity(max_tokens=3 * LENGTH + LENGTH - 1))
    expected = math.exp(losses(made["model"], heldout(made["tokens"])[: 3 * LENGTH + 1]).mean())
    assert metrics["perplexity"] == pytest.approx(expected, rel=1e-5)


def test_documents_are_read_by_themselves_where_the_training_did(made, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(made["model"])
    lines = [line for page in tiny_model.documents(textwrap) for line in page.splitlines()][:80]
    tokens = tiny_model.write_tokens(tmp_path / "tokens", {"train": [["q"]], "heldout": [lines]}, tokenizer)
    objective = CausalLM(sequence_length=LENGTH, restart_at_documents=True)
    network = AutoModelForCausalLM.from_pretrained(made["model"])
    model = tiny_model.write_model(network, made["model"], tmp_path / "restarting", objective=objective)
    metrics = measured({"tokens": tokens, "model": model}, tmp_path / "out", Perplexity())

    row = torch.from_numpy(heldout(tokens))
    found = []
    for start in range(0, len(row) - LENGTH, LENGTH):
        pieces = documents(row[start : start + LENGTH], begin=0)
        with torch.no_grad():
            logits = torch.cat([network(piece).logits[0] for piece in pieces])
        found.append(torch.nn.functional.cross_entropy(logits, row[start + 1 : start + LENGTH + 1]))
    mean = torch.stack(found).mean().item()
    assert metrics["perplexity"] == pytest.approx(math.exp(mean), rel=1e-5)
    assert mean != pytest.approx(losses(made["model"], row.numpy()).mean().item(), rel=1e-4)


def test_errors_of_layers_are_those_of_the_quantized_weights(made, tmp_path):
    inputs = both(made)["quantized"] | {"parent": made["model"]}
    found = measured(inputs, tmp_path / "layers", LayerErrors(max_tokens=4 * LENGTH))
    rows = [json.loads(line) for line in (tmp_path / "layers/layers.jsonl").read_text().splitlines()]
    assert len(rows) == 2 * 7
    assert {row["bits"] for row in rows} == {4}
    assert sum(row["weights"] for row in rows) == 2 * (2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 128)
    errors = [row["stream_error"] for row in rows]
    assert found == {
        "layer_error_percent": pytest.approx(100 * sum(errors)),
        "worst_layer_error_percent": 100 * max(errors),
    }
    # Four bits are good for a few percent of what a layer gives.
    assert all(1e-5 < row["output_error"] < 0.1 for row in rows)
    same = measured(inputs | {"parent": made["quantized"]}, tmp_path / "same", LayerErrors(max_tokens=4 * LENGTH))
    assert same == {"layer_error_percent": 0, "worst_layer_error_percent": 0}


def test_a_mixture_weighs_the_losses_of_its_corpora(made, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(made["model"])
    pages = tiny_model.documents(textwrap)
    other = tiny_model.write_tokens(tmp_path / "other", {"train": [pages[4:]], "heldout": [pages[:4]]}, tokenizer)
    inputs = mixture(tmp_path / "mixture", {"code": made["tokens"], "text": other}, (3.0, 1.0))
    found = measured(inputs | {"model": made["model"]}, tmp_path / "out", Perplexity(max_tokens=40 * LENGTH))

    means = {
        name: losses(made["model"], heldout(tokens)[: windows * LENGTH + 1]).mean().item()
        for name, tokens, windows in (("code", made["tokens"], 30), ("text", other, 10))
    }
    assert found["perplexity"] == pytest.approx(math.exp(0.75 * means["code"] + 0.25 * means["text"]), rel=1e-5)
    for name, mean in means.items():
        assert found["corpora"][name]["perplexity"] == pytest.approx(math.exp(mean), rel=1e-5)
        documents = [document for document in rows(tmp_path / "out") if document["corpus"] == name]
        nats, tokens = (sum(document[key] for document in documents) for key in ("loss", "tokens"))
        assert nats / tokens == pytest.approx(mean, rel=1e-5)
    assert set(found["unigram"]["corpora"]) == {"code", "text"}


def test_a_model_that_knows_nothing_has_the_perplexity_of_its_vocabulary(made, tmp_path):
    inputs = with_logits_of(lambda model: model.lm_head.weight.zero_(), tmp_path, made)
    metrics = measured(inputs, tmp_path / "out", Perplexity())
    assert metrics["perplexity"] == pytest.approx(384, rel=1e-6)


def test_bits_per_byte_are_the_bits_over_the_bytes_that_the_predicted_tokens_stand_for(made, tmp_path):
    metrics = measured(made, tmp_path / "out", Perplexity())
    row, tokenizer = heldout(made["tokens"]), AutoTokenizer.from_pretrained(made["model"])
    targets = row[1 : (len(row) - 1) // LENGTH * LENGTH + 1]
    # Byte by byte: every token of a byte-level vocabulary is as long as its text, and end-of-text is nothing.
    text = tokenizer.decode([i for i in targets if i != tokenizer.eos_token_id])
    bits = losses(made["model"], row).sum().item() / math.log(2)
    # The stage takes the split's mean bytes a token for those of the targets.
    assert metrics["bits_per_byte"] == pytest.approx(bits / len(text.encode()), rel=2e-3)


def test_bits_per_byte_of_a_split_by_hand(made, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(made["model"])
    # Four documents of one byte a token: 33 targets and a first token, of which 30 and one are text.
    documents = ["q" * 7] * 3 + ["q" * 10]
    tokens = tiny_model.write_tokens(tmp_path / "tokens", {"train": [["q"]], "heldout": [documents]}, tokenizer)
    card = cards.read(tokens, TokensCard).splits["heldout"]
    assert (card.tokens, card.text_bytes) == (35, 31)
    inputs = with_logits_of(lambda model: model.lm_head.weight.zero_(), tmp_path, made | {"tokens": tokens})
    metrics = measured(inputs, tmp_path / "out", Perplexity())
    # The first window: 32 targets, 3 of them end-of-text; each costs log2(384) bits and 29 stand for a byte.
    assert metrics["bits_per_byte"] == pytest.approx(32 * math.log2(384) / 29, rel=1e-6)
    assert [(document["tokens"], document["bytes"]) for document in rows(tmp_path / "out")] == [
        (7, 6),
        (8, 7),
        (8, 7),
        (9, 9),
    ]
    # Training tokens: q and end-of-text once each, of a vocabulary of 320.
    unigram = 320 + 2
    assert metrics["unigram"]["perplexity"] == pytest.approx(unigram / 2, rel=1e-9)


def test_completions_are_the_likeliest_tokens_and_those_of_transformers(made, tmp_path):
    prompts = ("def ", "class Option")
    for name, inputs in both(made).items():
        assert measured(inputs, tmp_path / name, Samples(prompts=prompts, max_new_tokens=12)) == {}
        samples = json.loads((tmp_path / name / "samples.json").read_text())
        model = AutoModelForCausalLM.from_pretrained(made[name], dtype="auto")
        tokenizer = AutoTokenizer.from_pretrained(made[name])
        assert [sample["prompt"] for sample in samples] == list(prompts)
        for sample in samples:
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


def test_completions_do_not_depend_on_how_a_model_is_published_to_write(made, tmp_path):
    written = []
    for name, published in (
        ("plain", {}),
        ("penalized", {"repetition_penalty": 9.0, "no_repeat_ngram_size": 1, "min_new_tokens": 9, "num_beams": 3}),
    ):
        model = tiny_model.new_model()
        model.generation_config.update(**published)
        inputs = made | {"model": tiny_model.write_model(model, made["model"], tmp_path / name / "model")}
        measured(inputs, tmp_path / name / "out", Samples(prompts=("def ",), max_new_tokens=12))
        written.append((tmp_path / name / "out/samples.json").read_text())
    assert (tmp_path / "penalized/model/generation_config.json").read_text().count("penalty") == 1
    assert written[0] == written[1]


def test_a_completion_beyond_the_positions_of_a_model_is_said(made, tmp_path, caplog):
    model = tiny_model.new_model(max_position_embeddings=16)
    inputs = made | {"model": tiny_model.write_model(model, made["model"], tmp_path / "model")}
    for most, is_said in ((2, False), (30, True)):
        caplog.clear()
        measured(inputs, tmp_path / str(most), Samples(prompts=("x",), max_new_tokens=most))
        said = "the prompt 'x' and what follows it have 31 tokens, and the model reads at most 16"
        assert (said in caplog.text) == is_said


def test_a_completion_ends_with_its_text(made, tmp_path):
    # Equal logits: the first token of the vocabulary, which is the end of the text.
    inputs = with_logits_of(lambda model: model.lm_head.weight.zero_(), tmp_path, made)
    measured(inputs, tmp_path / "out", Samples(prompts=("x",)))
    assert json.loads((tmp_path / "out/samples.json").read_text()) == [{"prompt": "x", "completion": ""}]


def test_samples_need_no_text(made, tmp_path):
    measured({"model": made["model"]}, tmp_path / "out", Samples(prompts=("x",), max_new_tokens=1))


@pytest.mark.parametrize("asked", [Perplexity(max_tokens=2000), Samples(prompts=("def ",), max_new_tokens=5)])
def test_two_runs_give_the_same_bytes_and_the_files_that_the_measure_declares(made, tmp_path, asked):
    texts = []
    for place in ("here", "some/where/else"):
        measured(made, tmp_path / place, asked)
        texts.append({path.name: path.read_bytes() for path in (tmp_path / place).iterdir() if path.is_file()})
    assert texts[0] == texts[1]
    assert set(texts[0]) == {"metrics.json", *asked.files}


def test_broken_weights_are_refused(made, tmp_path):
    inputs = with_logits_of(lambda model: model.model.norm.weight.fill_(math.nan), tmp_path, made)
    with pytest.raises(StageError, match="changed: the loss on held-out text is nan"):
        measured(inputs, tmp_path / "out", Perplexity())


def scaled(logits: float):
    """Puts this weight on one token at random for each state: finite logits, most of them wrong."""

    def change(model):
        model.model.norm.weight.fill_(logits)

    return change


def test_a_model_that_has_diverged_is_said_to_have_or_refused_where_its_perplexity_is_no_number(made, tmp_path, caplog):
    inputs = with_logits_of(scaled(300.0), tmp_path, made)
    found = measured(inputs, tmp_path / "finite", Perplexity())
    assert math.log(found["perplexity"]) == pytest.approx(losses(inputs["model"], heldout(made["tokens"])).mean())
    assert "the training has diverged" in caplog.text

    inputs = with_logits_of(scaled(1e5), tmp_path / "more", made)
    with pytest.raises(StageError, match="nats a token, so its perplexity is no number: the training has diverged"):
        measured(inputs, tmp_path / "out", Perplexity())


def test_a_model_that_learned_something_is_not_said_to_have_diverged(made, tmp_path, caplog):
    measured(made, tmp_path / "out", Perplexity())
    assert "diverged" not in caplog.text


def test_a_split_that_is_too_short_is_refused(made, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(made["model"])
    tokens = tiny_model.write_tokens(tmp_path / "tokens", {"train": [["q"]], "heldout": [["qq"]]}, tokenizer)
    with pytest.raises(StageError, match=r"held-out split has 3 tokens .* too little for one sequence of 32"):
        measured(made | {"tokens": tokens}, tmp_path / "out", Perplexity())


def test_fewer_tokens_than_a_sequence_are_refused(made, tmp_path):
    with pytest.raises(StageError, match=r"perplexity.max_tokens: 31 is less than one sequence of .* = 32"):
        measured(made, tmp_path / "out", Perplexity(max_tokens=31))


def test_a_missing_model_is_named(made, tmp_path):
    with pytest.raises(StageError, match="nowhere: no model artifact here"):
        measured(made | {"model": tmp_path / "nowhere"}, tmp_path / "out", Perplexity())


def test_tokens_of_another_tokenizer_are_refused(made, tmp_path):
    model = tiny_model.write_model(tiny_model.new_model(), made["model"], tmp_path / "other", tokenizer_digest="a" * 64)
    with pytest.raises(StageError, match=r"tokens: made with another tokenizer \(00000000…\) than that of .*aaaaaaaa"):
        measured(made | {"model": model}, tmp_path / "out", Perplexity())


def test_a_measure_that_says_nothing_of_the_model_is_refused(made, tmp_path):
    with pytest.raises(StageError, match="model: PseudoPerplexity masks single tokens, which CausalLM doesn't learn"):
        measured(made, tmp_path / "out", PseudoPerplexity())


def test_a_gpu_that_is_not_there_is_refused(made, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    context = tiny_model.stage_context(MeasureSection(measure=Perplexity()), made, tmp_path / "out", device="cuda")
    with pytest.raises(StageError, match=r"machine.device: 'cuda' was asked for"):
        measure.run(context)


CUSTOM = """
import attrs
import torch

from llmrecipe.extend import CustomMeasure, define


@define("mean_entropy")
class MeanEntropy(CustomMeasure):
    max_sequences: int = 4

    def measure(self, model):
        found, texts = [], list(model.texts(2))
        for sequence in model.sequences(self.max_sequences):
            with torch.no_grad():
                logits = model.transformers_model(torch.from_numpy(sequence)[None].to(model.device)).logits
            found.append(torch.distributions.Categorical(logits=logits).entropy().mean())
        tokens = len(model.tokenizer(texts[1])["input_ids"])
        return {"entropy": torch.stack(found).mean(), "read": len(found), "tokens": tokens}
"""


@pytest.mark.slow
def test_a_measure_of_ones_own_is_taken_by_the_stage_itself(made, tmp_path):
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes/entropies.py").write_text(CUSTOM)
    measure_of_ones_own = {"type": "mean_entropy", "max_sequences": 3, "revision": 2}
    section = {"type": "measure", "measure": measure_of_ones_own, "revision": 1}
    section["inputs"] = {role: str(made[role]) for role in ("model", "tokens")}
    section["extensions"] = ["recipes/entropies.py"]
    (tmp_path / "params.yaml").write_text(yaml.safe_dump({"tiny-entropy": section}))
    command = [sys.executable, "-m", "llmrecipe", "stage", "measure", "--name", "tiny-entropy"]
    command += ["--output", "out/tiny/entropy"]
    done = subprocess.run(command, cwd=tmp_path, env=os.environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

    found = json.loads((tmp_path / "out/tiny/entropy/metrics.json").read_text())
    network, row = AutoModelForCausalLM.from_pretrained(made["model"]), heldout(made["tokens"])
    with torch.no_grad():
        logits = network(torch.from_numpy(row[: 3 * LENGTH].reshape(3, LENGTH))).logits
    entropy = torch.distributions.Categorical(logits=logits).entropy().mean().item()
    second = tiny_model.documents(optparse)[1]
    tokens = len(AutoTokenizer.from_pretrained(made["model"])(second)["input_ids"])
    assert found == {"entropy": pytest.approx(entropy, rel=1e-5), "read": 3, "tokens": tokens}


@define("broken")
class Broken(CustomMeasure):
    gives: str = "nan"

    def measure(self, model):
        given = {
            "text": model.texts,
            "nan": lambda n: {"x": math.nan},
            "inf": lambda n: {"x": torch.tensor(720.0).exp()},
            "list": lambda n: [1.0],
        }
        return given.get(self.gives, lambda n: {"perplexity": math.exp(720 * n)})(1)


@define("broken_without_text")
class BrokenWithoutText(CustomMeasure):
    reads_text = False

    def measure(self, model):
        return {"texts": len(list(model.texts(1)))}


@define("signs")
class Signs(CustomScores):
    better: ClassVar = {"letters": "higher", "blanks": "lower"}
    gives: str = ""

    def scores(self, model):
        for text in model.texts(4):
            row = {"letters": np.int64(sum(map(str.isalpha, text))), "blanks": text.count(" ") / len(text)}
            yield row | {"less": {"letters": -1.0}, "other": {"words": 2}, "nan": {"letters": math.nan}}.get(
                self.gives, {}
            )


@define("none")
class NoScores(CustomScores):
    better: ClassVar = {"letters": "higher"}

    def scores(self, model):
        return []


def test_a_measure_that_scores_documents_leaves_each_score_and_their_means(made, tmp_path):
    found = measured(made, tmp_path / "out", Signs())
    texts = tiny_model.documents(optparse)[:4]
    letters, blanks = [sum(map(str.isalpha, text)) for text in texts], [text.count(" ") / len(text) for text in texts]
    assert found == {"letters": pytest.approx(sum(letters) / 4), "blanks": pytest.approx(sum(blanks) / 4)}
    assert json.loads((tmp_path / "out/scores.json").read_text()) == {
        "letters": {"better": "higher", "documents": letters},
        "blanks": {"better": "lower", "documents": pytest.approx(blanks)},
    }


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (Signs(gives="less"), r"Signs.scores gave .*; less than 0 has no ratio"),
        (Signs(gives="other"), r"Signs.scores gave .*, and `better` names letters, blanks; both must agree"),
        (Signs(gives="nan"), r"Signs.scores returned 'letters': nan, and must return finite numbers"),
        (NoScores(), r"NoScores.scores gave no document; have it score some"),
        (Broken(gives="nan"), r"Broken.measure returned 'x': nan, and must return finite numbers; exp of .* diverged"),
        (Broken(gives="inf"), r"Broken.measure returned 'x': tensor\(inf\), .* where the training has diverged"),
        (Broken(gives="list"), r"Broken.measure returned \[1.0\]; it must return a dict"),
        (Broken(gives="exp"), r"Broken.measure computes a number that is too large \(math range error\), .* diverged"),
        (BrokenWithoutText(), "declares `reads_text = False`, and asks for held-out text"),
    ],
)
def test_a_broken_measure_of_ones_own_is_refused(made, tmp_path, asked, message):
    with pytest.raises(StageError, match=message):
        measured(made, tmp_path / "out", asked)


def test_the_name_of_a_measure_is_free_in_a_report():
    with pytest.raises(ValueError, match=r"Perplexity.name: 'unigram' has a meaning of its own"):
        Perplexity(name="unigram")
