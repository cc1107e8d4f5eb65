"""The funnel of a corpus: how many documents came in, what each cleaner took away, and what it left."""

from collections.abc import Iterator, Mapping
from typing import Any

_HEAD = (
    ("", "", "dropped", "", "", "left", ""),
    ("", "documents", "changed", "tokens", "MB", "documents", "MB"),
)


def text(metrics: Mapping[str, Any]) -> str:
    """A table, from the metrics of the prepare stage.

    Tokens are words and signs, since there is no tokenizer yet. Tokens and megabytes are those of the documents that
    were dropped, and what was cut from those that were changed; a repair can also add some. Held-out text of a source
    of its own is read apart from the rest, and no part of the rows above it.
    """
    rows = [*_HEAD, *_rows(metrics)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip() for row in rows
    )


def left(metrics: Mapping[str, Any]) -> Iterator[tuple[str, int, int]]:
    """After each cleaner its name, and the documents and UTF-8 bytes that it left."""
    documents, size = metrics["read"]["documents"], metrics["read"]["text_bytes"]
    for cleaner in metrics["cleaners"]:
        documents -= metrics["dropped"][cleaner]
        size -= metrics["dropped_text_bytes"][cleaner]
        yield cleaner, documents, size


def _rows(metrics: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    yield _total("read", metrics["read"])
    for cleaner, documents, size in left(metrics):
        dropped = [f"{metrics[name][cleaner]:,}" for name in ("dropped", "changed", "dropped_tokens")]
        yield cleaner, *dropped, megabytes(metrics["dropped_text_bytes"][cleaner]), f"{documents:,}", megabytes(size)
        for reason, count in metrics["dropped_because"].get(cleaner, {}).items():
            yield f"  {reason}", f"{count:,}", "", "", "", "", ""
    if "heldout_read" in metrics:
        yield _total("heldout read", metrics["heldout_read"])
    yield from (_total(split, metrics[split]) for split in ("train", "heldout"))


def _total(name: str, counts: Mapping[str, int]) -> tuple[str, ...]:
    return name, "", "", "", "", f"{counts['documents']:,}", megabytes(counts["text_bytes"])


def megabytes(count: int) -> str:
    """Bytes as megabytes, with two decimals."""
    return f"{count / 1e6:z.2f}"
