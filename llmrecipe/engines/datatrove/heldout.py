"""What is held out of a corpus: a share of its documents, or those of a source of its own.

The documents of a source are read and mended once, before those of the corpus, and join them where documents are
compared or written. From then on nothing drops or changes them.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from datatrove.data import Document, DocumentsPipeline
from datatrove.pipeline.base import PipelineStep
from datatrove.pipeline.filters import LambdaFilter
from datatrove.pipeline.filters.base_filter import BaseFilter
from datatrove.pipeline.writers.jsonl import JsonlWriter

from llmrecipe.engines.datatrove import companions
from llmrecipe.engines.datatrove.cleaners import hashes, words
from llmrecipe.engines.datatrove.cleaners.steps import step_of
from llmrecipe.engines.datatrove.documents import has_text
from llmrecipe.engines.datatrove.executors import executor
from llmrecipe.engines.datatrove.folders import LocalFolder
from llmrecipe.engines.datatrove.passes import TaskReader
from llmrecipe.engines.datatrove.readers.sources import reader_of
from llmrecipe.engines.datatrove.split import SplitByHash
from llmrecipe.errors import StageError
from llmrecipe.recipe.kinds import Source
from llmrecipe.recipe.machine import Machine
from llmrecipe.recipe.quantity import Fraction
from llmrecipe.sections import PrepareSection

EQUALS_HELDOUT = "equals_heldout"
"""The name under which training documents that equal one of a held-out source are dropped."""

_WHERE = "corpus.heldout"


class Heldout(ABC):
    """What is held out."""

    is_apart: ClassVar[bool]
    """Whether it is a source of its own, whose documents all stay."""

    filters: Mapping[str, BaseFilter]
    """What drops training documents because of it, by label."""

    metrics: dict[str, Any]
    """What was counted of it, for `metrics.json`."""

    @abstractmethod
    def split(self) -> PipelineStep:
        """The step after which every document of a task has its split."""


def heldout_of(section: PrepareSection, machine: Machine, work: Path) -> Heldout:
    """What a section holds out; the documents of a source are read and mended, into `work`.

    Raises:
        StageError: the source can't be read, or no document of it holds text.
    """
    if isinstance(section.heldout, Fraction):
        return HeldoutShare(section.heldout.of_total)
    return HeldoutSource(section.heldout, section, machine, work)


class HeldoutShare(Heldout):
    """A share of the documents; of equal ones, all or none."""

    is_apart: ClassVar[bool] = False

    def __init__(self, share: float) -> None:
        self.share = share
        self.filters = {}
        self.metrics = {}

    def split(self) -> PipelineStep:
        """Splits the documents by their text."""
        return SplitByHash(self.share)


class HeldoutSource(Heldout):
    """The documents of a source, mended."""

    is_apart: ClassVar[bool] = True

    def __init__(self, source: Source, section: PrepareSection, machine: Machine, work: Path) -> None:
        """Read and mend them; what an interrupted run left in `work` is used."""
        self._documents, file = work / "documents", work / "hashes.npy"
        steps: list[tuple[str, PipelineStep]] = [
            ("read", reader_of(source, _WHERE)),
            ("empty", LambdaFilter(has_text)),
            ("split", SplitByHash(1.0)),
            *(("mend", Mended(step_of(each))) for each in section.clean if each.changes_text and not each.compares),
            ("write", JsonlWriter(LocalFolder(self._documents), compression=None)),
            ("hash", TextHashes(work / "parts")),
        ]
        counted = executor.run(
            "reading held-out text", steps, tasks=section.shards, machine=machine, work=work / "read"
        )
        read, empty = counted["read", "documents"], counted["empty", "dropped"]
        if read == empty:
            raise StageError(f"{_WHERE}: nothing to hold out: none of its {read:,} documents holds text")
        merge = hashes.MergeHashes(work / "parts", file)
        executor.run("collecting held-out text", [("merge", merge)], tasks=1, machine=machine, work=work / "merge")
        self.filters = {EQUALS_HELDOUT: EqualsHeldout(file)}
        self.metrics = {"heldout_read": {"documents": read, "text_bytes": counted["read", "bytes"], "empty": empty}}

    def split(self) -> PipelineStep:
        """Puts these documents before the others, which are for training."""
        return HeldoutFirst(self._documents)


class Mended(PipelineStep):
    """Lets a step mend documents; one that it drops, or leaves no text of, stays as it was."""

    type = "MEND"
    name = "held-out text"

    def __init__(self, step: PipelineStep) -> None:
        super().__init__()
        self.step = step

    def run(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        """All the documents."""
        for document in data:
            before = document.text
            mended = next(iter(self.step.run(iter([document]), rank, world_size)), None)
            if mended is None or not has_text(mended):
                document.text = before
            yield document


class TextHashes(PipelineStep):
    """Writes the hashes of a task's texts."""

    type = "HASHES"
    name = "texts"

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    def run(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> None:
        """Write the file."""
        found = np.fromiter((words.text_hash(document.text) for document in data), np.uint64)
        hashes.save(self.folder / f"{rank:05d}.npy", found)


class HeldoutFirst(PipelineStep):
    """Puts a task's held-out documents before those that it has, which are for training."""

    type = "READER"
    name = "held-out text"

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.reader = TaskReader(LocalFolder(folder), compression=None, add_file_path=False)

    def run(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        """The held-out documents, then the others."""
        yield from self.reader.run(None, rank, world_size)
        for document in data:
            companions.SPLIT.put(document, "train")
            yield document


class EqualsHeldout(BaseFilter):
    """Drops documents whose text is that of a held-out one."""

    name = "equal to held-out text"

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.file = file

    @cached_property
    def index(self) -> np.ndarray:
        """The hashes of the held-out texts."""
        return hashes.load(self.file)

    def filter(self, document: Document) -> bool:
        """Whether it stays."""
        return not len(hashes.places(np.array([words.text_hash(document.text)], np.uint64), self.index))
