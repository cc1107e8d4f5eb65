"""Documents that share an n-gram with an evaluation set.

datatrove's own indexer knows the evaluation sets of lighteval only, and its filter holds them in a dictionary.
"""

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import numpy as np
from datatrove.data import Document, DocumentsPipeline
from datatrove.pipeline.base import PipelineStep
from datatrove.pipeline.filters.base_filter import BaseFilter

from llmrecipe.engines.datatrove.cleaners import words
from llmrecipe.engines.datatrove.readers.sources import reader_of
from llmrecipe.engines.datatrove.split import is_heldout
from llmrecipe.errors import StageError
from llmrecipe.recipe.deduplication import Decontaminate

_HELDOUT = "heldout"


def readers(cleaner: Decontaminate, where: str, folder: Path) -> Iterator[tuple[PipelineStep, ...]]:
    """For each evaluation set, the steps that read it and write its n-grams, in one task.

    Args:
        cleaner: names the sets.
        where: its place in the recipe, for messages.
        folder: gets an index for each set, under the name that reasons have for it.
    """
    for index, source in enumerate(cleaner.against):
        name = f"against[{index}]"
        path = f"{where}.{name}"
        yield reader_of(source, path), EvaluationNgrams(folder / "indexes" / f"{name}.npy", cleaner.ngram, path)


class EvaluationNgrams(PipelineStep):
    """Writes the hashes of all n-grams of the texts, sorted."""

    type = "DECONTAMINATE"
    name = "n-grams of an evaluation set"

    def __init__(self, file: Path, size: int, where: str) -> None:
        super().__init__()
        self.file, self.size, self.where = file, size, where

    def run(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> None:
        """Write the file.

        Raises:
            StageError: no text is long enough.
        """
        hashes = _distinct(data, self.size)
        if not len(hashes):
            raise StageError(f"{self.where}: no text of it has {self.size} words; use a smaller `ngram`")
        _save(self.file, hashes)


class HeldoutNgrams(PipelineStep):
    """Writes the hashes of all n-grams of this task's held-out documents."""

    type = "DECONTAMINATE"
    name = "n-grams of the held-out documents"

    def __init__(self, folder: Path, size: int) -> None:
        super().__init__()
        self.folder, self.size = folder, size

    def run(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> None:
        """Write the file."""
        hashes = _distinct(filter(is_heldout, data), self.size)
        _save(self.folder / _HELDOUT / f"{rank}.npy", hashes)


class Merge(PipelineStep):
    """Makes the n-grams of all tasks' held-out documents one index."""

    type = "DECONTAMINATE"
    name = "index of the held-out documents"

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    def run(self, data: DocumentsPipeline = None, rank: int = 0, world_size: int = 1) -> None:
        """Write the file."""
        parts = [np.load(file) for file in sorted((self.folder / _HELDOUT).glob("*.npy"))]
        _save(self.folder / "indexes" / f"{_HELDOUT}.npy", np.unique(np.concatenate(parts)))


class ContaminationFilter(BaseFilter):
    """Drops training documents that hold an n-gram of an index, and says of which."""

    name = "contaminated documents"

    def __init__(self, folder: Path, size: int) -> None:
        super().__init__()
        self.folder, self.size = folder, size

    @cached_property
    def indexes(self) -> dict[str, np.ndarray]:
        """Sorted hashes by the name of the evaluation set, left on disk."""
        files = sorted((self.folder / "indexes").glob("*.npy"))
        return {file.stem: np.load(file, mmap_mode="r") for file in files}

    def filter(self, document: Document) -> bool | tuple[bool, str]:
        """Whether it stays, or the evaluation set."""
        if is_heldout(document):
            return True
        hashes = words.ngram_hashes(document.text, self.size)
        for name, index in self.indexes.items():
            # One that is larger than all is compared with the last.
            nearest = np.minimum(np.searchsorted(index, hashes), len(index) - 1)
            found = np.flatnonzero(index[nearest] == hashes) if len(index) else ()
            if len(found):
                document.metadata["filter_detail"] = words.ngram(document.text, self.size, int(found[0]))
                return False, name
        return True


def _distinct(documents: DocumentsPipeline, size: int) -> np.ndarray:
    parts = [np.unique(words.ngram_hashes(document.text, size)) for document in documents]
    return np.unique(np.concatenate([np.array([], np.uint64), *parts]))


def _save(path: Path, hashes: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, hashes)
