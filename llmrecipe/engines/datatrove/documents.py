"""Clean documents on disk: JSON lines, compressed, in a training and a held-out split."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import orjson
from backports import zstd
from datatrove.data import Document
from datatrove.io import OutputFileManager
from datatrove.pipeline.writers.jsonl import JsonlWriter
from fsspec.implementations.local import LocalFileSystem

from llmrecipe import cards
from llmrecipe.cards import DocumentsCard
from llmrecipe.engines.datatrove import companions
from llmrecipe.engines.datatrove.folders import LocalFolder

SPLITS = ("train", "heldout")


class DocumentWriter(JsonlWriter):
    """Writes each document, `{"id", "text"}`, into its task's file of the split.

    Its statistics hold `{split}_documents` and `{split}_bytes`, UTF-8.
    """

    def __init__(self, directory: Path) -> None:
        folder = LocalFolder(directory)
        super().__init__(folder, output_filename="${split}/${rank}.jsonl.zst", compression=None)
        self.output_mg = _CompressedFiles(folder)

    def write(self, document: Document, rank: int = 0, **kwargs: Any) -> None:
        """Write and count a document."""
        split = companions.SPLIT.of(document)
        self.stat_update(f"{split}_documents")
        self.stat_update(f"{split}_bytes", value=len(document.text.encode()))
        super().write(document, rank, **kwargs)

    def _default_adapter(self, document: Document) -> dict[str, str]:
        return {"id": document.id, "text": document.text}


def write_card(directory: Path, counts: Mapping[str, Mapping[str, int]]) -> None:
    """Record the splits' files and, by split, the counts `documents` and `text_bytes`."""
    card = DocumentsCard(
        files={split: _files(directory, split) for split in SPLITS},
        documents={split: counts[split]["documents"] for split in SPLITS},
        text_bytes={split: counts[split]["text_bytes"] for split in SPLITS},
    )
    cards.write(directory, card)


def read_card(directory: Path) -> DocumentsCard:
    """What `write_card` recorded.

    Raises:
        StageError: nothing was.
    """
    return cards.read(directory, DocumentsCard)


def texts(directory: Path, split: str) -> Iterator[str]:
    """The texts of a split, in the order of its files."""
    for name in read_card(directory).files[split]:
        yield from (document["text"] for document in read(directory / name))


def read(path: Path) -> Iterator[dict[str, Any]]:
    """The documents of a file."""
    with LocalFileSystem().open(str(path), "rb", compression="zstd") as file:
        yield from map(orjson.loads, file)


def write(path: Path, documents: Iterable[dict[str, Any]]) -> None:
    """Write a file of documents, each with `id` and `text`, and maybe more."""
    with _compressed(path) as file:
        file.writelines(orjson.dumps(document) + b"\n" for document in documents)


def has_text(document: Document) -> bool:
    """Whether a document holds more than white space."""
    return bool(document.text.strip())


class _CompressedFiles(OutputFileManager):
    """datatrove's open files; fsspec, through which it opens them, compresses without checksums."""

    def __init__(self, folder: LocalFolder) -> None:
        super().__init__(folder, mode="wb", compression=None)

    def get_file(self, filename: str) -> zstd.ZstdFile:
        """The file of this name, opened once."""
        if filename not in self._output_files:
            path = Path(self.fs.path, filename)
            path.parent.mkdir(parents=True, exist_ok=True)
            self._output_files[filename] = _compressed(path)
        file: zstd.ZstdFile = self._output_files[filename]
        return file


def _compressed(path: Path) -> zstd.ZstdFile:
    """A file to write to, with a checksum of its content, so whoever reads it notices damage."""
    return zstd.ZstdFile(path, "wb", options={zstd.CompressionParameter.checksum_flag: 1})


def _files(directory: Path, split: str) -> tuple[str, ...]:
    return tuple(sorted(path.relative_to(directory).as_posix() for path in (directory / split).glob("*.jsonl.zst")))
