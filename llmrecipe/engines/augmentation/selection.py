"""Which training documents an augmenter takes."""

import hashlib
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from llmrecipe.engines.datatrove import documents
from llmrecipe.errors import StageError
from llmrecipe.recipe.kinds import Augmenter


def digest(*parts: str | int) -> int:
    """A number of 256 bits that these parts, and their order, decide."""
    return int.from_bytes(hashlib.sha256("\0".join(map(str, parts)).encode()).digest(), "big")


def rank(augmenter: Augmenter, document: str) -> int:
    """The place of a document, by its id, in the augmenter's own order of all documents."""
    return digest(augmenter.tag, augmenter.seed, document)


def choose(augmenters: Sequence[Augmenter], directory: Path) -> list[dict[str, list[int]]]:
    """For each augmenter, by file of the training split, the lines of the documents that it takes.

    It goes through the documents in its own order, and takes one if that leaves it within its share of all documents
    and of all bytes of text. So the choice depends on ids and sizes alone, not on the documents' order. Needs some
    tens of bytes of memory for each document.
    """
    card = documents.read_card(directory)
    files, total = card.files["train"], card.documents["train"]
    ranks = np.empty((len(augmenters), total), dtype=np.uint64)
    sizes, starts, number = np.empty(total, dtype=np.int64), [], 0
    for name in files:
        starts.append(number)
        for document in documents.read(directory / name):
            if number == total:
                raise _not_as_described(directory)
            sizes[number] = len(document["text"].encode())
            ranks[:, number] = [rank(augmenter, document["id"]) >> 192 for augmenter in augmenters]
            number += 1
    if number != total:
        raise _not_as_described(directory)
    return [
        _by_file(_within_share(augmenter.share, np.argsort(row, kind="stable"), sizes), files, starts)
        for augmenter, row in zip(augmenters, ranks, strict=True)
    ]


def _within_share(share: float, order: np.ndarray, sizes: np.ndarray) -> list[int]:
    most, left = math.floor(share * len(sizes)), math.floor(share * int(sizes.sum()))
    taken: list[int] = []
    for number in order.tolist():
        if len(taken) == most:
            break
        if sizes[number] <= left:
            taken.append(number)
            left -= int(sizes[number])
    return taken


def _by_file(taken: list[int], files: Sequence[str], starts: list[int]) -> dict[str, list[int]]:
    lines: dict[str, list[int]] = {name: [] for name in files}
    files_of = np.searchsorted(starts, taken, side="right") - 1
    for number, index in sorted(zip(taken, files_of.tolist(), strict=True)):
        lines[files[index]].append(number - starts[index])
    return lines


def _not_as_described(directory: Path) -> StageError:
    return StageError(f"{directory}: not as many documents as its card says; delete the folder and run `dvc repro`")
