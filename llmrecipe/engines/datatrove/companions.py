"""What travels with a document from step to step, in datatrove's metadata; nothing of it is written in the end."""

from typing import Generic, TypeVar

import attrs
from datatrove.data import Document

T = TypeVar("T")


@attrs.frozen
class Companion(Generic[T]):
    """One fact about a document, under its key in the metadata."""

    key: str

    def of(self, document: Document) -> T | None:
        """What the document carries; None if nothing."""
        return document.metadata.get(self.key)

    def put(self, document: Document, value: T) -> None:
        """Let the document carry it."""
        document.metadata[self.key] = value

    def take(self, document: Document) -> T | None:
        """What the document carried; it carries it no longer."""
        return document.metadata.pop(self.key, None)


SPLIT = Companion[str]("split")
"""`train` or `heldout`; none before documents are split."""

SHARD = Companion[int]("shard")
"""The task that has read the document."""

URL = Companion[str]("url")
"""Address of the page that it is from, if the source has one."""

REASON = Companion[str]("filter_reason")
"""Why a step drops or cuts it; datatrove's filters put it there."""

DETAIL = Companion[str]("filter_detail")
"""Which part of the text was the reason."""

EXAMPLE = Companion[str]("example")
"""What to show of a document that is dropped or cut, where that isn't its beginning."""


def is_heldout(document: Document) -> bool:
    """Whether a document was split, and is held out."""
    return SPLIT.of(document) == "heldout"
