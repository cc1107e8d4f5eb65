"""Text that a tokenizer loses is counted, said, and in no number in bytes."""

import json
import logging
import shutil
from collections import Counter
from pathlib import Path

import pytest
import tiny_model
from corpora import read_documents, run, write_jsonl
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from llmrecipe import artifacts, cards
from llmrecipe.cards import TokensCard
from llmrecipe.engines.tokens.inputs import Tokens
from llmrecipe.lost import LostText, lost
from llmrecipe.recipe.evolve import evolve
from llmrecipe.recipe.measure import Perplexity
from llmrecipe.recipe.quantity import Fraction
from llmrecipe.recipe.source import JsonlFiles
from llmrecipe.sections import MeasureSection, PrepareSection, TokenizeSection
from llmrecipe.stages import measure

END = "<end>"
ENGLISH = [f"The river runs to Sea number {n}, and it does not stop." for n in range(300)]
RUSSIAN = [f"{text} Река течёт." for text in ENGLISH]
FRENCH = [f"{text} Été." for text in ENGLISH]
INDENTED = [f"if a:\n    {text}\n" for text in ENGLISH]


@pytest.fixture(scope="module", params=[ENGLISH, RUSSIAN, FRENCH, INDENTED], ids=["en", "ru", "fr", "code"])
def documents(request, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("documents")
    source = JsonlFiles(paths=(str(write_jsonl(folder / "a.jsonl", request.param)),))
    section = PrepareSection(source=source, clean=(), heldout=Fraction(0.3), shards=2)
    return run("prepare", section, folder).output / "documents"


def byte_level(tokenizer: Tokenizer) -> trainers.Trainer:
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(), decoders.ByteLevel()
    return trainers.BpeTrainer(initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), special_tokens=[END])


def sentencepiece(tokenizer: Tokenizer) -> trainers.Trainer:
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    return trainers.BpeTrainer(special_tokens=[END])


def lower_case(tokenizer: Tokenizer) -> trainers.Trainer:
    tokenizer.normalizer = normalizers.Lowercase()
    return byte_level(tokenizer)


def without_accents(tokenizer: Tokenizer) -> trainers.Trainer:
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents()])
    return byte_level(tokenizer)


def one_space(tokenizer: Tokenizer) -> trainers.Trainer:
    tokenizer.normalizer = normalizers.Replace(Regex(r"\s+"), " ")
    return byte_level(tokenizer)


def unknown(tokenizer: Tokenizer) -> trainers.Trainer:
    tokenizer.model = models.WordPiece(unk_token="<unk>", max_input_chars_per_word=10_000)
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.BertPreTokenizer(), decoders.WordPiece()
    return trainers.WordPieceTrainer(special_tokens=[END, AddedToken("<unk>", special=False)])


def made(kind, folder: Path) -> Path:
    """A tokenizer that has learned from English alone."""
    tokenizer = Tokenizer(models.BPE())
    trainer = kind(tokenizer)
    tokenizer.train_from_iterator(ENGLISH, trainer)
    named = {"unk_token": "<unk>"} if kind is unknown else {}
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, **named)
    fast.save_pretrained(folder)
    artifacts.seal(folder, "tokenizer")
    return folder


LOST = {
    byte_level: lambda text: Counter(),
    # There is no token for what wasn't learned.
    sentencepiece: lambda text: Counter(each for each in text if each not in "".join(ENGLISH)),
    lower_case: lambda text: Counter(each for each in text if each != each.lower()),
    without_accents: lambda text: Counter(each for each in text if each in "éÉё"),
    # As many spaces as before, but for those of the indentation and what the line breaks became.
    one_space: lambda text: Counter("\n\n  ") if "\n" in text else Counter(),
}


@pytest.mark.parametrize("kind", LOST)
def test_what_decoding_does_not_give_back_is_counted_and_warned_of(documents, tmp_path, kind, caplog):
    caplog.set_level(logging.INFO)
    tokenizer = made(kind, tmp_path / "tokenizer")
    output = run("tokenize", TokenizeSection(), tmp_path, {"documents": documents, "tokenizer": tokenizer}).output
    metrics, card = json.loads((output / "metrics.json").read_text()), cards.read(output / "tokens", TokensCard)
    for split in ("train", "heldout"):
        texts = [document["text"] for document in read_documents(documents, split)]
        expected = sum(map(LOST[kind], texts), Counter())
        spaces, characters = sum(expected[each] for each in " \n"), sum(map(len, texts))
        found = metrics[split]["lost"]
        assert found["share"] == pytest.approx((expected.total() - spaces) / characters)
        assert found["white_space"] == pytest.approx(spaces / characters)
        assert set(found["characters"]) <= set(expected)
        assert bool(found["characters"]) == bool(expected)
        assert LostText(**found) == card.splits[split].lost
        assert ("bytes_per_token" in metrics[split]) == (not expected)
        # White space alone is no reason to be loud.
        loud = [record for record in caplog.records if f"of the {split} text are" in record.getMessage()]
        assert [record.levelname for record in loud] == (
            [] if not expected else ["WARNING" if expected.total() > spaces else "INFO"]
        )
    caplog.clear()
    Tokens.of({"tokens": output / "tokens"}).say_what_is_lost("heldout")
    assert ("of the heldout text are" in caplog.text) == bool(expected)


def test_unknown_tokens_are_lost_text_and_spaces_put_between_tokens_are_no_text(tmp_path, caplog):
    source = JsonlFiles(paths=(str(write_jsonl(tmp_path / "a.jsonl", RUSSIAN)),))
    section = PrepareSection(source=source, clean=(), heldout=Fraction(0.3), shards=1)
    inputs = {"documents": run("prepare", section, tmp_path).output / "documents"}
    inputs["tokenizer"] = made(unknown, tmp_path / "tokenizer")
    output = run("tokenize", TokenizeSection(), tmp_path, inputs).output
    counts = json.loads((output / "metrics.json").read_text())["heldout"]
    texts = [document["text"] for document in read_documents(inputs["documents"], "heldout")]
    # Two words of Russian; and ahead of each `,`, `.` and `.` a space that isn't in the text.
    assert counts["lost"]["share"] == pytest.approx(sum(len("Рекатечёт") for _ in texts) / sum(map(len, texts)))
    assert counts["lost"]["white_space"] > 0
    assert counts["lost"]["characters"][:2] == "ет"
    assert counts["unknown_share"] > 0.05
    assert "tokens are '<unk>'" in caplog.text
    assert "most often 'е', 'т'" in caplog.text


@given(st.text(), st.text(alphabet="ab é", min_size=1))
def test_characters_are_lost_that_are_not_given_back_and_no_others(text, more):
    assert lost(text, text) == Counter()
    assert lost(text, f" {text}") == Counter()
    assert lost(text, f"{text}x") == Counter()
    assert lost(f"x{text}{more}", f"x{text}") == Counter(more)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> dict[str, Path]:
    return tiny_model.make(tmp_path_factory.mktemp("model"))


@pytest.mark.parametrize("share", [0.0, 0.0009, 0.0011, 0.7])
def test_there_is_no_number_in_bytes_of_a_text_that_was_lost(model, tmp_path, share, caplog):
    tokens = tmp_path / "tokens"
    shutil.copytree(model["tokens"], tokens)
    card = cards.read(tokens, TokensCard)
    splits = card.splits | {"heldout": evolve(card.splits["heldout"], lost=LostText(share=share, characters="Я"))}
    cards.write(tokens, evolve(card, splits=splits))
    artifacts.seal(tokens, "tokens")
    inputs = {"model": model["model"], "tokens": tokens}
    section = MeasureSection(measure=Perplexity(max_tokens=2000))
    measure.run(tiny_model.stage_context(section, inputs, tmp_path / "measure"))
    numbers = json.loads((tmp_path / "measure/metrics.json").read_text())
    is_given = share < 0.001
    for found in (numbers, numbers["unigram"]):
        assert ("bits_per_byte" in found) == is_given
        assert found.get("text_lost_percent", 0) == pytest.approx(0 if is_given else 100 * share)
        assert found["perplexity"] > 1
    rows = [json.loads(line) for line in (tmp_path / "measure/documents.jsonl").read_text().splitlines()]
    # What was lost is counted as well, so it makes no number.
    assert all("bytes" in row for row in rows)
    assert ("no number in bytes is given" in caplog.text) == (not is_given)
