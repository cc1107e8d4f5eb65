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

from llmrecipe.engines.datatrove import companions
from llmrecipe.engines.datatrove.cleaners import hashes, words
from llmrecipe.engines.datatrove.companions import is_heldout
from llmrecipe.engines.datatrove.readers.sources import reader_of
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
        found = _ngrams(data, self.size)
        if not len(found):
            raise StageError(f"{self.where}: no text of it has {self.size} words; use a smaller `ngram`")
        hashes.save(self.file, found)


class HeldoutNgrams(PipelineStep):
    """Writes the hashes of all n-grams of this task's held-out documents."""

    type = "DECONTAMINATE"
    name = "n-grams of the held-out documents"

    def __init__(self, folder: Path, size: int) -> None:
        super().__init__()
        self.folder, self.size = folder, size

    def run(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> None:
        """Write the file."""
        hashes.save(self.folder / _HELDOUT / f"{rank}.npy", _ngrams(filter(is_heldout, data), self.size))


def merge_heldout(folder: Path) -> PipelineStep:
    """The step that makes the n-grams of all tasks' held-out documents one index."""
    return hashes.MergeHashes(folder / _HELDOUT, folder / "indexes" / f"{_HELDOUT}.npy")


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
        return {file.stem: hashes.load(file) for file in files}

    def filter(self, document: Document) -> bool | tuple[bool, str]:
        """Whether it stays, or the evaluation set."""
        if is_heldout(document):
            return True
        ngrams = words.ngram_hashes(document.text, self.size)
        for name, index in self.indexes.items():
            found = hashes.places(ngrams, index)
            if len(found):
                companions.DETAIL.put(document, words.ngram(document.text, self.size, int(found[0])))
                return False, name
        return True


def _ngrams(documents: DocumentsPipeline, size: int) -> np.ndarray:
    """The hashes of all n-grams of the documents, each once, sorted."""
    return hashes.distinct(np.unique(words.ngram_hashes(document.text, size)) for document in documents)
