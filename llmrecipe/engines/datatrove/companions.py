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
        """The document's; None if it has none."""
        return document.metadata.get(self.key)

    def put(self, document: Document, value: T) -> None:
        """Give a document one."""
        document.metadata[self.key] = value

    def take(self, document: Document) -> T | None:
        """The document's, which it then has no more."""
        return document.metadata.pop(self.key, None)


SPLIT = Companion[str]("split")
"""`train` or `heldout`; none before documents are split."""

SHARD = Companion[int]("shard")
"""The task that has read it."""

URL = Companion[str]("url")
"""Address of the page that it is from, if the source has one."""

REASON = Companion[str]("filter_reason")
"""Why a step drops or cuts it; datatrove's filters put it there."""

DETAIL = Companion[str]("filter_detail")
"""What of it was the reason."""

EXAMPLE = Companion[str]("example")
"""What to show of a document that is dropped or cut, where that isn't its beginning."""


def is_heldout(document: Document) -> bool:
    """Whether a document was split, and is held out."""
    return SPLIT.of(document) == "heldout"
