"""Text for the data benchmarks: words of a Zipf distribution, in sentences, paragraphs and documents."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

_WORDS = 20_000
_LETTERS = np.array(list("etaoinshrdlucmfwypvbgkjqxz"))


def texts(megabytes: float, seed: int = 0) -> Iterator[str]:
    """About so many megabytes, in documents of about 2 kB."""
    generator = np.random.default_rng(seed)
    frequencies = np.arange(len(_LETTERS), 0, -1) / np.arange(len(_LETTERS), 0, -1).sum()
    lengths = generator.integers(2, 11, _WORDS)
    words = ["".join(generator.choice(_LETTERS, length, p=frequencies)) for length in lengths]
    words[:8] = ["the", "be", "to", "of", "and", "that", "have", "with"]
    vocabulary = np.array(words)
    weights = 1 / np.arange(1, _WORDS + 1)
    written = 0
    while written < megabytes * 1e6:
        sentences = [
            " ".join(vocabulary[generator.choice(_WORDS, count, p=weights / weights.sum())]).capitalize() + "."
            for count in generator.integers(8, 20, 25)
        ]
        text = "\n\n".join(" ".join(sentences[start : start + 5]) for start in range(0, 25, 5))
        written += len(text)
        yield text


def write_jsonl(path: Path, megabytes: float, seed: int = 0) -> Path:
    """A file of JSON lines with that text."""
    with open(path, "w", encoding="utf-8") as file:
        for text in texts(megabytes, seed):
            file.write(json.dumps({"text": text}) + "\n")
    return path


def write_jsonl_quickly(path: Path, megabytes: float, seed: int = 0) -> Path:
    """As `write_jsonl`, for large files: the documents are drawn from the paragraphs of the first 4 MB."""
    paragraphs = [paragraph for text in texts(min(megabytes, 4), seed) for paragraph in text.split("\n\n")]
    generator, written = np.random.default_rng(seed), 0
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", encoding="utf-8") as file:
        while written < megabytes * 1e6:
            text = "\n\n".join(paragraphs[number] for number in generator.integers(0, len(paragraphs), 5))
            file.write(json.dumps({"text": text}) + "\n")
            written += len(text)
    return path
