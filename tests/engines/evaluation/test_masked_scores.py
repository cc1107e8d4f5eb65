"""What is measured of masked language models, checked by hand and against transformers, one token at a time."""

import json
import math
import textwrap
from pathlib import Path

import numpy as np
import pytest
import tiny_model
import torch
from transformers import AutoModelForMaskedLM, BertConfig, BertForMaskedLM

from llmrecipe import artifacts, cards
from llmrecipe.cards import MaskingCard, MixtureCard
from llmrecipe.engines.compression import quantization
from llmrecipe.engines.models import folders
from llmrecipe.engines.models.architecture import architecture_of
from llmrecipe.errors import StageError
from llmrecipe.recipe.masking import Spans, WholeWords
from llmrecipe.recipe.measure import Measure, Perplexity, PseudoPerplexity
from llmrecipe.recipe.networks.bert import Bert
from llmrecipe.recipe.networks.modern_bert import ModernBert
from llmrecipe.recipe.objective import MaskedLM, MultiMaskLM
from llmrecipe.recipe.scheme import FP8, W4A16, RoundToNearest
from llmrecipe.sections import MeasureSection, QuantizeSection
from llmrecipe.stages import measure

LENGTH = tiny_model.SEQUENCE_LENGTH
OBJECTIVE = MaskedLM(sequence_length=LENGTH)
NETWORK = Bert(hidden_size=32, num_layers=2, num_attention_heads=2, max_position_embeddings=LENGTH)
MASK = 319
"""An ordinary token of the tiny tokenizer that these tests take for the mask token."""


def masked_tokens(directory: Path, splits: dict[str, list[str]], tokenizer) -> Path:
    """Tokens whose tokenizer has a mask token; a token with a space before it begins a word."""
    goes_on = [index for token, index in tokenizer.get_vocab().items() if not token.startswith(("Ġ", "Ċ"))]
    masking = MaskingCard(mask_token_id=MASK, special_ids=(0, MASK), continuing_ids=tuple(sorted(goes_on)))
    shards = {split: [texts] for split, texts in splits.items()}
    return tiny_model.write_tokens(directory, shards, tokenizer, masking)


def encoder() -> BertForMaskedLM:
    torch.manual_seed(1)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    return BertForMaskedLM(
        BertConfig(
            vocab_size=384,
            max_position_embeddings=LENGTH,
            initializer_range=0.5,
            pad_token_id=None,
            architectures=["BertForMaskedLM"],
            **sizes,
        )
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    tokenizer = tiny_model.write_tokenizer(folder / "tokenizer")
    pages = tiny_model.documents(textwrap)
    tokens = masked_tokens(
        folder / "tokens", {"train": pages[4:], "heldout": "".join(pages[:4]).split("\n")}, tokenizer
    )
    return {"tokens": tokens, "model": write_model(encoder(), folder / "tokenizer", folder / "model")}


def write_model(model: BertForMaskedLM, tokenizer: Path, directory: Path, objective=OBJECTIVE) -> Path:
    """A sealed model artifact."""
    return tiny_model.write_model(model, tokenizer, directory, network=NETWORK, objective=objective)


def measured(inputs: dict[str, Path], output: Path, asked: Measure) -> dict:
    """What `metrics.json` holds."""
    measure.run(tiny_model.stage_context(MeasureSection(measure=asked), inputs, output))
    return json.loads((output / "metrics.json").read_text())


def rows(output: Path) -> list[dict]:
    """What `documents.jsonl` holds."""
    return [json.loads(line) for line in (output / "documents.jsonl").read_text().splitlines()]


def row(tokens: Path, split: str) -> np.ndarray:
    return np.fromfile(tokens / split / "00000.ds", "<u2").astype(np.int64)


def alone(model: Path, tokens: np.ndarray) -> list[float]:
    """−log p of each ordinary token of a sequence, masked alone, in a pass of its own."""
    network, found = AutoModelForMaskedLM.from_pretrained(model), []
    for place in np.flatnonzero((tokens != 0) & (tokens != MASK)):
        inputs = torch.from_numpy(tokens.copy())
        inputs[place] = MASK
        with torch.no_grad():
            found.append(-network(inputs[None]).logits[0, place].double().log_softmax(-1)[tokens[place]].item())
    return found


def test_pseudo_perplexity_is_that_of_each_token_masked_alone(made, tmp_path):
    metrics = measured(made, tmp_path / "out", PseudoPerplexity(max_tokens=3 * LENGTH + 5))
    text = row(made["tokens"], "heldout")
    sequences = [text[start : start + LENGTH] for start in range(0, 3 * LENGTH, LENGTH)]
    expected = [nats for sequence in sequences for nats in alone(made["model"], sequence)]
    assert len(expected) < 3 * LENGTH
    assert metrics["pseudo_perplexity"] == pytest.approx(math.exp(np.mean(expected)), rel=1e-5)

    counts = np.bincount(row(made["tokens"], "train"), minlength=320) + 1.0
    counts[[0, MASK]] = 0
    answers = np.concatenate(sequences)
    answers = answers[(answers != 0) & (answers != MASK)]
    expected = math.exp(-np.log(counts[answers] / counts.sum()).mean())
    assert metrics["unigram"] == {"pseudo_perplexity": pytest.approx(expected, rel=1e-9)}


@pytest.mark.parametrize(
    ("model", "scheme"),
    [(Bert, W4A16(group_size=32, observer="minmax", rounding=RoundToNearest())), (ModernBert, FP8())],
    ids=["bert", "modernbert"],
)
def test_logits_of_some_places_are_those_of_the_whole_sequence_also_of_a_quantized_encoder(
    made, tmp_path, model, scheme
):
    model = model(hidden_size=32, num_layers=2, num_attention_heads=2, max_position_embeddings=LENGTH)
    network = AutoModelForMaskedLM.from_config(architecture_of(model).transformers_config(model, 320, 0))
    dense = folders.load_model(write_model(network, made["model"], tmp_path / "dense"))
    token_ids, rows, positions = torch.randint(0, 320, (2, 16)), torch.tensor([0, 1, 1]), torch.tensor([3, 0, 15])
    found = folders.masked_logits(dense, token_ids, rows, positions)
    torch.testing.assert_close(found, dense(token_ids).logits[rows, positions], rtol=0, atol=1e-6)

    section = QuantizeSection(scheme=scheme, calibration_samples=1, seed=0)
    quantization.quantize(dense, folders.load_tokenizer(made["model"]), section, token_ids[:0], torch.device("cpu"))
    expected = dense(token_ids).logits[rows, positions]
    quantization.save_compressed(dense, tmp_path / "small")
    artifacts.seal(tmp_path / "small", "model")
    found = folders.masked_logits(folders.load_model(tmp_path / "small"), token_ids, rows, positions)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "objective",
    [
        MaskedLM(sequence_length=LENGTH, masking=WholeWords(), mask_rate=0.3, mask_share=0.5, random_share=0.5),
        MultiMaskLM(sequence_length=LENGTH, masking=Spans(max_length=4)),
    ],
)
def test_masked_tokens_are_chosen_as_in_training_and_none_is_left_to_be_seen(made, tmp_path, monkeypatch, objective):
    read, masked_logits = [], folders.masked_logits

    def recorded(model, token_ids, rows, positions):
        logits = masked_logits(model, token_ids, rows, positions)
        read.append((token_ids.numpy(), rows.numpy(), positions.numpy(), logits.double()))
        return logits

    monkeypatch.setattr(folders, "masked_logits", recorded)
    network = AutoModelForMaskedLM.from_pretrained(made["model"])
    inputs = made | {"model": write_model(network, made["model"], tmp_path / "model", objective)}
    metrics = measured(inputs, tmp_path / "out", Perplexity(max_tokens=10 * LENGTH))
    [(input_ids, rows, positions, logits)] = read
    text = row(made["tokens"], "heldout")[: 10 * LENGTH].reshape(10, LENGTH)
    answers = text[rows, positions]

    # What differs from the text are the predicted places, each the mask token; the share of them is the objective's.
    changed = np.argwhere(input_ids != text)
    assert changed.tolist() == np.stack([rows, positions], 1).tolist()
    assert set(input_ids[rows, positions]) == {MASK}
    assert not {0, MASK} & set(answers.tolist())
    ordinary = (text != 0).sum()
    assert objective.mask_rate * ordinary * 0.7 < len(answers) <= objective.mask_rate * ordinary + 5

    # The logits are those of the whole model, and the numbers those of the logits.
    with torch.no_grad():
        whole = network(torch.from_numpy(input_ids)).logits[rows, positions].double()
    assert torch.allclose(logits, whole, atol=1e-5)
    losses = -whole.log_softmax(-1)[torch.arange(len(answers)), torch.from_numpy(answers)]
    assert metrics["masked_perplexity"] == pytest.approx(math.exp(losses.mean()), rel=1e-5)
    right = (whole.argmax(-1).numpy() == answers).mean()
    assert metrics["masked_accuracy_percent"] == pytest.approx(100 * right)

    counts = np.bincount(row(made["tokens"], "train"), minlength=320)
    counts[[0, MASK]] = -1
    usual = (answers == counts.argmax()).mean()
    assert metrics["unigram"]["masked_accuracy_percent"] == pytest.approx(100 * usual)
    assert 0 < usual < 1


def test_a_model_that_always_says_the_right_token_has_perplexity_one_and_all_right(made, tmp_path):
    # A text of one token, which the bias of the output layer says whatever is read.
    tokenizer = tiny_model.write_tokenizer(tmp_path / "tokenizer")
    tokens = masked_tokens(tmp_path / "tokens", {"train": ["q" * 40], "heldout": ["q" * 99]}, tokenizer)
    model = encoder()
    with torch.no_grad():
        model.cls.predictions.bias[tokenizer("q")["input_ids"][0]] = 1e4
    inputs = {"tokens": tokens, "model": write_model(model, tmp_path / "tokenizer", tmp_path / "model")}
    found = [measured(inputs, tmp_path / asked.tag, asked) for asked in (Perplexity(), PseudoPerplexity())]
    for numbers in found:
        del numbers["unigram"]
    assert found == [{"masked_perplexity": 1, "masked_accuracy_percent": 100}, {"pseudo_perplexity": 1}]


def test_a_mixture_weighs_losses_and_shares_of_its_corpora(made, tmp_path):
    tokenizer = tiny_model.write_tokenizer(tmp_path / "tokenizer")
    pages = tiny_model.documents(json)
    other = masked_tokens(tmp_path / "other", {"train": pages[2:], "heldout": pages[:2]}, tokenizer)
    digests = tuple(artifacts.file_digest(path / artifacts.MANIFEST) for path in (made["tokens"], other))
    (tmp_path / "mixture").mkdir()
    cards.write(tmp_path / "mixture", MixtureCard(corpora=("code", "text"), shares=(3.0, 1.0), tokens=digests))
    artifacts.seal(tmp_path / "mixture", "mixture")
    inputs = {"mixture": tmp_path / "mixture", "tokens.code": made["tokens"], "tokens.text": other}
    for cls, windows in ((Perplexity, (6, 2)), (PseudoPerplexity, (3, 1))):
        mixed = cls(max_tokens=sum(windows) * LENGTH)
        found = measured(inputs | {"model": made["model"]}, tmp_path / f"mixed-{cls.tag}", mixed)
        for name, tokens, count in zip(("code", "text"), (made["tokens"], other), windows, strict=True):
            alone = measured(made | {"tokens": tokens}, tmp_path / f"{name}-{cls.tag}", cls(max_tokens=count * LENGTH))
            for both, by_itself in ((found, alone), (found["unigram"], alone.pop("unigram"))):
                share = {"code": 0.75, "text": 0.25}[name]
                assert both["corpora"][name] == pytest.approx(by_itself | {"share": share})
        for numbers in (found, found["unigram"]):
            code, text = numbers["corpora"]["code"], numbers["corpora"]["text"]
            for key in code.keys() - {"share"}:
                if key == "masked_accuracy_percent":
                    assert numbers[key] == pytest.approx(0.75 * code[key] + 0.25 * text[key])
                else:
                    mean = 0.75 * math.log(code[key]) + 0.25 * math.log(text[key])
                    assert numbers[key] == pytest.approx(math.exp(mean))


@pytest.mark.parametrize("asked", [Perplexity(max_tokens=20 * LENGTH), PseudoPerplexity(max_tokens=20 * LENGTH)])
def test_documents_have_their_own_sums_which_add_up_to_the_metrics(made, tmp_path, asked):
    metrics, documents = measured(made, tmp_path / "out", asked), rows(tmp_path / "out")
    total, count = (math.fsum(document[key] for document in documents) for key in ("loss", "tokens"))
    perplexity = metrics["masked_perplexity" if asked.tag == "perplexity" else "pseudo_perplexity"]
    assert perplexity == pytest.approx(math.exp(total / count), rel=1e-12)

    # Each document that was read is listed, those without a masked token as well.
    text = row(made["tokens"], "heldout")[: 20 * LENGTH]
    pieces = [piece for piece in np.split(text, np.flatnonzero(text == 0) + 1) if len(piece)]
    ordinary = [int(((piece != 0) & (piece != MASK)).sum()) for piece in pieces]
    found = [document["tokens"] for document in documents]
    assert len(found) == len(ordinary) > 10
    if asked.tag == "pseudo_perplexity":
        assert found == ordinary
    else:
        assert all(few <= many for few, many in zip(found, ordinary, strict=True))
        assert 0 in found


def test_tokens_without_a_mask_token_are_refused(made, tmp_path):
    tokenizer = tiny_model.write_tokenizer(tmp_path / "tokenizer")
    pages = tiny_model.documents(textwrap)
    splits = {"train": [pages[4:]], "heldout": [pages[:4]]}
    tokens = tiny_model.write_tokens(tmp_path / "tokens", splits, tokenizer)
    with pytest.raises(StageError, match="no mask token"):
        measured(made | {"tokens": tokens}, tmp_path / "out", PseudoPerplexity())


def test_a_split_of_special_tokens_is_refused(made, tmp_path):
    tokenizer = tiny_model.write_tokenizer(tmp_path / "tokenizer")
    tokens = masked_tokens(tmp_path / "tokens", {"train": ["q"], "heldout": [""] * 40 + ["q"]}, tokenizer)
    for asked in (Perplexity(), PseudoPerplexity()):
        with pytest.raises(StageError, match="nothing but special tokens"):
            measured(made | {"tokens": tokens}, tmp_path / asked.tag, asked)


def test_fewer_tokens_than_a_sequence_are_refused_by_the_measures_own_name(made, tmp_path):
    with pytest.raises(StageError, match=r"pseudo_perplexity.max_tokens: 31 is less than one sequence of .* = 32"):
        measured(made, tmp_path / "out", PseudoPerplexity(max_tokens=31))
