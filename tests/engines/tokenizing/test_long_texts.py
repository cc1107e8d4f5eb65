"""Texts that are too long to be encoded at once are encoded in parts, to the same tokens."""

import itertools
import json

import numpy as np
import pytest
from corpora import run, write_jsonl
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from llmrecipe import ByteLevelBPE, Unigram
from llmrecipe.engines.datatrove import tokenize
from llmrecipe.engines.tokenizing import long_texts
from llmrecipe.engines.tokenizing.long_texts import cut
from llmrecipe.recipe.quantity import Fraction
from llmrecipe.recipe.source import JsonlFiles
from llmrecipe.sections import PrepareSection, TokenizerSection, TokenizeSection


@given(text=st.text(alphabet="ab \n", max_size=60), longest=st.integers(2, 12))
def test_parts_join_to_the_text_and_begin_with_a_word_where_they_can(text, longest):
    parts = list(cut(text, longest))
    assert "".join(parts) == text
    assert all(len(part) <= longest for part in parts)
    for before, after in itertools.pairwise(parts):
        at_word = after[0] == " " and not before[-1].isspace() and not after[1:2].isspace()
        assert at_word or len(before) == longest


@pytest.mark.parametrize("tokenizer", [ByteLevelBPE(vocab_size=400), Unigram(vocab_size=400)], ids=lambda t: t.tag)
def test_a_long_document_has_the_tokens_of_the_whole(tmp_path, monkeypatch, tokenizer):
    monkeypatch.chdir(tmp_path)
    # Words, runs of spaces, empty lines, numbers and an endless word.
    words = ["the", "cat", "it's", "\n\n", "  indented", "12,345", "été", "x" * 30, "sat."]
    generator = np.random.default_rng(0)
    documents = [" ".join(generator.choice(words, 200)) for _ in range(8)]
    write_jsonl(tmp_path / "data.jsonl", documents)
    section = PrepareSection(source=JsonlFiles(paths=("*.jsonl",)), clean=(), heldout=Fraction(0.3), shards=1)
    inputs = {"documents": run("prepare", section, tmp_path / "a").output / "documents"}
    made = run("tokenizer", TokenizerSection(tokenizer=tokenizer), tmp_path / "b", inputs).output / "tokenizer"
    monkeypatch.setattr(tokenize, "ENCODED_AT_ONCE", 250)
    output = run("tokenize", TokenizeSection(), tmp_path / "c", inputs | {"tokenizer": made}).output / "tokens"

    alone = AutoTokenizer.from_pretrained(made)
    found = []
    description = json.loads((output / "card.json").read_text())
    for split in description["splits"].values():
        row = np.concatenate([np.fromfile(output / name, description["dtype"]) for name in split["files"]])
        ends = np.flatnonzero(row == alone.eos_token_id)
        found += [part.tolist() for part in np.split(row, ends + 1)[:-1]]
    expected = [[*alone(text, add_special_tokens=False)["input_ids"], alone.eos_token_id] for text in documents]
    assert sorted(found) == sorted(expected)


def test_a_word_that_never_ends_is_learned_in_time():
    # The time of training grows with the square of a word's length: minutes for a million characters.
    parts = list(cut("a" * 1_000_000, long_texts.LEARNED_AT_ONCE))
    assert max(map(len, parts)) == 8192
