"""What the cleaners drop: how much, and a few examples with the reasons."""

import hashlib
import heapq
import json
import re
from collections import defaultdict
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import Any

from datatrove.data import Document, DocumentsPipeline
from datatrove.pipeline.base import PipelineStep
from datatrove.pipeline.filters.base_filter import BaseFilter

from llmrecipe.engines.datatrove import companions

SIZE = 20
"""Examples kept for each cleaner: those whose texts have the smallest hashes, whichever task dropped them."""

_CHARACTERS = 2000
"""Examples are cut to this many characters."""

_TOKEN = re.compile(r"\w+|[^\w\s]")


class Watched(PipelineStep):
    """Runs a step of datatrove's, counts what it takes away, and keeps examples of it.

    Text cut from kept documents counts too. If a step lengthens a text, its counts are negative. In the statistics are
    `gone_documents` and `changed_documents`, and of both `gone_tokens` and `gone_bytes`.
    """

    def __init__(self, step: PipelineStep, cleaner: str, folder: Path, *, passes_heldout: bool = False) -> None:
        """
        Args:
            step: takes one document at a time, and yields it or doesn't.
            cleaner: the name under which examples are kept.
            folder: this step's own; every task that has examples leaves a file there.
            passes_heldout: whether held-out documents, which then come first, go past the step.
        """
        super().__init__()
        self.step = step
        self.stats = step.stats
        self.cleaner = cleaner
        self.folder = folder
        self.passes_heldout = passes_heldout
        self.examples: list[dict[str, str]] = []
        if isinstance(step, BaseFilter):
            step.exclusion_writer = _Reasons()

    def run(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        """The documents that the step lets through."""
        taken: list[tuple[Document, str]] = []
        rest = iter(data)
        if self.passes_heldout:
            for document in rest:
                if not companions.is_heldout(document):
                    rest = chain([document], rest)
                    break
                yield document

        def watched() -> Iterator[Document]:
            for document in rest:
                self._drop(taken)
                taken.append((document, document.text))
                yield document
            self._drop(taken)

        for document in self.step.run(watched(), rank, world_size):
            _, before = taken.pop()
            if document.text != before:
                self._change(document, before)
            yield document
        if self.examples:
            self.folder.mkdir(parents=True, exist_ok=True)
            content = {"cleaner": self.cleaner, "examples": self.examples}
            (self.folder / f"{rank:05d}.json").write_text(json.dumps(content), encoding="utf-8")

    def _drop(self, taken: list[tuple[Document, str]]) -> None:
        """What was taken before and hasn't come back is dropped."""
        for document, text in taken:
            self.stat_update("gone_documents")
            self._count(text, "")
            self._keep(document, text)
        taken.clear()

    def _change(self, document: Document, before: str) -> None:
        self.stat_update("changed_documents")
        self._count(before, document.text)
        if companions.EXAMPLE.of(document) is not None:
            self._keep(document, before)

    def _count(self, before: str, after: str) -> None:
        self.stat_update("gone_tokens", value=tokens(before) - tokens(after))
        self.stat_update("gone_bytes", value=len(before.encode()) - len(after.encode()))

    def _keep(self, document: Document, text: str) -> None:
        """Keep an example, if it is among the smallest."""
        reason, detail = (each.take(document) or "" for each in (companions.REASON, companions.DETAIL))
        shown = companions.EXAMPLE.take(document)
        example = {
            "key": hashlib.sha256(text.encode()).hexdigest(),
            "because": f"{reason}: {detail}" if detail else reason,
            "id": document.id,
            "text": (text if shown is None else shown)[:_CHARACTERS],
        }
        self.examples = _smallest([*self.examples, example])


class _Reasons:
    """Has a filter of datatrove's leave its reason in the metadata, as it does for who writes what it drops."""

    def __enter__(self) -> "_Reasons":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def write(self, document: Document, rank: int = 0) -> None:
        """The reason is all that is needed."""


def tokens(text: str) -> int:
    """Words and signs of a text: the nearest thing to its tokens before there is a tokenizer."""
    return sum(1 for _ in _TOKEN.finditer(text))


def examples(folder: Path) -> list[dict[str, Any]]:
    """The examples in folders below `folder`, a row each: `by` (the cleaner), `because`, `id`, `text`."""
    found: defaultdict[str, list[dict[str, str]]] = defaultdict(list)
    for file in sorted(folder.glob("*/*.json")):
        part = json.loads(file.read_text(encoding="utf-8"))
        found[part["cleaner"]] = _smallest(found[part["cleaner"]] + part["examples"])
    return [
        {"by": cleaner} | {name: example[name] for name in ("because", "id", "text")}
        for cleaner, kept in sorted(found.items())
        for example in kept
    ]


def _smallest(examples: list[dict[str, str]]) -> list[dict[str, str]]:
    return heapq.nsmallest(SIZE, examples, key=lambda example: (example["key"], example["id"]))
