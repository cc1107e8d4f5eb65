"""What the cleaners drop: how much, and a few examples with the reasons."""

import hashlib
import heapq
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import attrs
from datatrove.data import Document
from datatrove.pipeline.base import PipelineStep

SIZE = 20
"""Examples for each cleaner: those whose texts have the smallest hashes, whoever has dropped them."""

_CHARACTERS = 2000
"""Of an example, its beginning."""


@attrs.define
class Dropped:
    """What one cleaner has dropped, or one task of it."""

    documents: int = 0
    """How many."""

    text_bytes: int = 0
    """UTF-8 bytes of their texts."""

    examples: list[dict[str, str]] = attrs.field(factory=list)
    """At most `SIZE`, each with a `key` (the hash of its text), `because` (a reason, if any), `id` and `text`."""


class Recorder:
    """Takes what a step of datatrove's drops, as its `exclusion_writer`."""

    def __init__(self, folder: Path, cleaner: str) -> None:
        """`folder` is this step's own; every task leaves a file there."""
        self._folder = folder
        self._cleaner = cleaner
        self._dropped = Dropped()
        self._rank = 0

    def __enter__(self) -> "Recorder":
        return self

    def write(self, document: Document, rank: int = 0) -> None:
        """Count a document, and keep it if it is among the examples."""
        content = document.text.encode()
        dropped, self._rank = self._dropped, rank
        dropped.documents += 1
        dropped.text_bytes += len(content)
        example = {
            "key": hashlib.sha256(content).hexdigest(),
            "because": str(document.metadata.get("filter_reason", "")),
            "id": document.id,
            "text": document.text[:_CHARACTERS],
        }
        dropped.examples = _smallest([*dropped.examples, example])

    def __exit__(self, *_: object) -> None:
        if self._dropped.documents:
            self._folder.mkdir(parents=True, exist_ok=True)
            content = {"cleaner": self._cleaner} | attrs.asdict(self._dropped)
            (self._folder / f"{self._rank:05d}.json").write_text(json.dumps(content), encoding="utf-8")


def record(step: PipelineStep, cleaner: str, folder: Path) -> PipelineStep:
    """Let `step`, if it drops documents, record them in `folder` under the name `cleaner`."""
    if hasattr(step, "exclusion_writer"):
        step.exclusion_writer = Recorder(folder, cleaner)
    return step


def collect(folder: Path) -> dict[str, Dropped]:
    """By cleaner, what all the steps have recorded in folders below `folder`."""
    found: defaultdict[str, Dropped] = defaultdict(Dropped)
    for file in sorted(folder.glob("*/*.json")):
        part = json.loads(file.read_text(encoding="utf-8"))
        total = found[part["cleaner"]]
        total.documents += part["documents"]
        total.text_bytes += part["text_bytes"]
        total.examples = _smallest(total.examples + part["examples"])
    return dict(found)


def rows(dropped: dict[str, Dropped]) -> list[dict[str, Any]]:
    """The examples of all cleaners, a row each: `by`, `because`, `id`, `text`."""
    return [
        {"by": cleaner} | {name: example[name] for name in ("because", "id", "text")}
        for cleaner, what in sorted(dropped.items())
        for example in what.examples
    ]


def _smallest(examples: list[dict[str, str]]) -> list[dict[str, str]]:
    return heapq.nsmallest(SIZE, examples, key=lambda example: (example["key"], example["id"]))
