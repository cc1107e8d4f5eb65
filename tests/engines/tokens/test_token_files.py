"""Token files are one row of tokens, whatever the shards."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmrecipe import artifacts
from llmrecipe.engines.tokens.files import TokenFiles
from llmrecipe.errors import StageError


def write_split(directory: Path, shards: list[np.ndarray], dtype: str, vocab_size: int) -> Path:
    """A sealed tokens artifact whose train split has these shards; laid out by hand."""
    (directory / "train").mkdir(parents=True)
    names = [f"train/{index:05d}.ds" for index in range(len(shards))]
    for name, shard in zip(names, shards, strict=True):
        shard.astype({"uint16": "<u2", "uint32": "<u4"}[dtype]).tofile(directory / name)
    split = {"files": names, "tokens": sum(map(len, shards)), "documents": 1, "text_bytes": 10}
    card = {"dtype": dtype, "vocab_size": vocab_size, "end_of_text_id": 0, "splits": {"train": split}}
    card |= {"tokenizer": "", "special_tokens": {}, "masking": None}
    (directory / "card.json").write_text(json.dumps(card))
    artifacts.seal(directory, "tokens")
    return directory


@settings(deadline=None, max_examples=60)
@given(
    sizes=st.lists(st.integers(0, 40), min_size=1, max_size=6),
    sequence_length=st.integers(1, 50),
    dtype=st.sampled_from(["uint16", "uint32"]),
    seed=st.integers(0, 2**32 - 1),
)
def test_windows_are_those_of_the_shards_laid_end_to_end(tmp_path_factory, sizes, sequence_length, dtype, seed):
    vocab_size = {"uint16": 65_536, "uint32": 100_000}[dtype]
    generator = np.random.default_rng(seed)
    shards = [generator.integers(0, vocab_size, size) for size in sizes]
    files = TokenFiles.open(write_split(tmp_path_factory.mktemp("tokens") / "t", shards, dtype, vocab_size), "train")
    row = np.concatenate(shards)

    assert files.num_tokens == len(row)
    windows = []
    while len(window := row[len(windows) * sequence_length :][: sequence_length + 1]) == sequence_length + 1:
        windows.append(window)
    assert files.num_windows(sequence_length) == len(windows)
    for index, window in enumerate(windows):
        np.testing.assert_array_equal(files.window(index, sequence_length), window)
    for outside in (-1, len(windows)):
        with pytest.raises(IndexError):
            files.window(outside, sequence_length)


def test_a_window_within_a_shard_is_not_copied(tmp_path):
    files = TokenFiles.open(write_split(tmp_path / "t", [np.arange(100), np.arange(100)], "uint16", 128), "train")
    assert np.shares_memory(files.window(3, 10), files.shards[0])
    assert not np.shares_memory(files.window(9, 10), files.shards[0])
    with pytest.raises(ValueError, match="read-only"):
        files.window(3, 10)[0] = 1


def test_every_token_is_counted_beyond_one_chunk(tmp_path, monkeypatch):
    monkeypatch.setattr("llmrecipe.engines.tokens.files._CHUNK", 7)
    shards = [np.array([0, 1, 1, 3] * 5), np.array([3]), np.array([], dtype=int)]
    files = TokenFiles.open(write_split(tmp_path / "t", shards, "uint16", 5), "train")
    assert files.token_counts().tolist() == [5, 10, 0, 6, 0]


def test_files_that_disagree_with_the_listed_tokens_are_refused(tmp_path):
    directory = write_split(tmp_path / "t", [np.arange(10)], "uint16", 16)
    (directory / artifacts.MANIFEST).unlink()
    (directory / "train/00000.ds").write_bytes(b"\0" * 18)
    artifacts.seal(directory, "tokens")
    with pytest.raises(StageError, match="hold 18 bytes, 10 tokens of 2 bytes are listed"):
        TokenFiles.open(directory, "train")
