"""Clean documents on disk: JSON lines, compressed, in a training and a held-out split."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import orjson
from datatrove.data import Document
from datatrove.pipeline.writers.jsonl import JsonlWriter

from llmrecipe import artifacts

SPLITS = ("train", "heldout")

_DESCRIPTION = "documents.json"


class DocumentWriter(JsonlWriter):
    """Writes each document, `{"id", "text"}`, into its task's file of the split that its metadata names.

    Its statistics hold `{split}_documents` and `{split}_bytes`, UTF-8.
    """

    def __init__(self, directory: Path) -> None:
        super().__init__(str(directory), output_filename="${split}/${rank}.jsonl", compression="zstd")

    def write(self, document: Document, rank: int = 0, **kwargs: Any) -> None:
        """Write and count a document."""
        split = document.metadata["split"]
        self.stat_update(f"{split}_documents")
        self.stat_update(f"{split}_bytes", value=len(document.text.encode()))
        super().write(document, rank, **kwargs)

    def _default_adapter(self, document: Document) -> dict[str, str]:
        return {"id": document.id, "text": document.text}


def describe(directory: Path, counts: dict[str, dict[str, int]]) -> None:
    """Record the splits' files and, by split, the counts `documents` and `text_bytes`."""
    splits = {split: {"files": _files(directory, split)} | counts[split] for split in SPLITS}
    artifacts.write_json(directory / _DESCRIPTION, {"splits": splits})


def description(directory: Path) -> dict[str, Any]:
    """By split: `files` (relative, sorted), `documents` and `text_bytes` (UTF-8)."""
    return json.loads((directory / _DESCRIPTION).read_text(encoding="utf-8"))["splits"]


def texts(directory: Path, split: str) -> Iterator[str]:
    """The texts of a split, in the order of its files."""
    for name in description(directory)[split]["files"]:
        yield from (document["text"] for document in read(directory / name))


def read(path: Path) -> Iterator[dict[str, Any]]:
    """The documents of a file."""
    with fsspec.open(str(path), "rb", compression="zstd") as file:
        yield from map(orjson.loads, file)


def write(path: Path, documents: Iterable[dict[str, Any]]) -> None:
    """Write a file of documents, each with `id` and `text`, and maybe more."""
    with fsspec.open(str(path), "wb", compression="zstd") as file:
        file.writelines(orjson.dumps(document) + b"\n" for document in documents)


def _files(directory: Path, split: str) -> list[str]:
    return sorted(path.relative_to(directory).as_posix() for path in (directory / split).glob("*.jsonl.zst"))
