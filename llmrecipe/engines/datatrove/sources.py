"""Readers of the sources of a corpus. What can't be read is an error that names the file, never a skipped line."""

import csv
import glob
import lzma
import sys
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePath
from typing import IO, Any, ClassVar, TextIO

import orjson
import pyarrow
import pyarrow.parquet
from backports.zstd import ZstdError
from datatrove.data import Document, DocumentsPipeline
from datatrove.pipeline.readers.base import BaseDiskReader

from llmrecipe.engines.datatrove import stdlib
from llmrecipe.errors import StageError
from llmrecipe.recipe.source import CsvFiles, JsonlFiles, ParquetFiles, PythonStdlib, Source, TextFiles

COMPRESSIONS = {".gz": "gzip", ".bz2": "bz2", ".xz": "xz", ".zst": "zstd"}

_DAMAGED = (OSError, EOFError, zlib.error, lzma.LZMAError, ZstdError, pyarrow.ArrowException)

# The module's own limit, 128 KiB, is less than many documents.
csv.field_size_limit(sys.maxsize)


class SourceReader(BaseDiskReader):
    """Base of the readers: deals the documents of a list of files over the tasks.

    The files' bytes, laid end to end, are cut into one equal part for each task. A file within one part belongs to
    that task; the documents of a file that reaches over several parts go to their tasks in turn, so that one large
    file keeps every worker busy.
    """

    kind: ClassVar[str]
    """What a file is, for messages."""

    suffixes: ClassVar[tuple[str, ...]]
    """How its name may end, before the suffix of a compression."""

    compressed: ClassVar[bool] = True
    """Whether it may be compressed as a whole."""

    def __init__(self, root: Path, paths: Iterable[str], text_field: str = "text") -> None:
        """
        Args:
            root: folder of the files.
            paths: POSIX paths below `root`, or absolute, in the order of reading; they also name the documents.
            text_field: column or key of the text.

        Raises:
            StageError: a file can't be of this format, or all are empty.
        """
        # fsspec keeps a folder for each path it was given, and for "." the first that it was.
        self.root = root.absolute()
        super().__init__(str(self.root), text_key=text_field)
        self.sizes = {path: (self.root / path).stat().st_size for path in paths}
        for path, size in self.sizes.items():
            self.check_file(path, size)
        if sum(self.sizes.values()) == 0:
            raise StageError(f"{next(iter(self.sizes))}: empty, and so is every other file of the source")

    @classmethod
    def check_file(cls, path: str, size: int) -> None:
        """Refuse, by name and size, a file that can't be of this format."""
        if format_suffix(path) not in cls.suffixes or (not cls.compressed and PurePath(path).suffix in COMPRESSIONS):
            raise StageError(
                f"{path}: a {cls.kind} ends in {' or '.join(cls.suffixes)}"
                + (f", and in {', '.join(COMPRESSIONS)} after that if it is compressed" if cls.compressed else "")
                + "; rename it, or narrow the pattern of the source"
            )
        if size == 0:
            raise StageError(f"{path}: empty (0 bytes); fetch it again, or delete it")

    def owners(self, world_size: int) -> Iterator[tuple[str, range]]:
        """Each file with the tasks that share its documents."""
        total, start = sum(self.sizes.values()), 0
        for path, size in self.sizes.items():
            first = min(start * world_size // total, world_size - 1)
            last = max((start + size - 1) * world_size // total, first)
            yield path, range(first, last + 1)
            start += size

    def run(self, data: DocumentsPipeline = None, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        """This task's documents."""
        for path, owners in self.owners(world_size):
            if rank not in owners:
                continue
            try:
                for index, document in enumerate(self.read_file(path)):
                    if owners[index % len(owners)] == rank:
                        document.metadata["shard"] = rank
                        self.stat_update("documents")
                        self.stat_update("bytes", value=len(document.text.encode()))
                        yield document
            except UnicodeDecodeError as error:
                raise StageError(f"{path}: not UTF-8 ({error.reason}); convert it, for instance with iconv") from error
            except _DAMAGED as error:
                raise StageError(
                    f"{path}: can't be read as a {self.kind} ({error}); it may be damaged or cut short, fetch it again"
                ) from error

    def open_text(self, path: str, newline: str | None = None) -> TextIO:
        """Open a text file, compressed or not; a byte order mark is no part of the text."""
        compression = COMPRESSIONS.get(PurePath(path).suffix)
        return self.open(path, "r", compression=compression, encoding="utf-8-sig", newline=newline)

    def open(self, path: str, mode: str, **options: Any) -> IO:
        """Open a file of the source; `options` as for fsspec."""
        return self.data_folder.fs.open(str(self.root / path), mode, **options)

    def text_of(self, value: Any, place: str) -> str:
        """The text in a field; a missing value is an empty text."""
        if value is None:
            return ""
        if not isinstance(value, str):
            raise StageError(
                f"{place}: {self.text_key!r} holds {type(value).__name__}, not text; set `text_field` to what holds it"
            )
        return value

    def require_text_field(self, names: Iterable[str], place: str) -> None:
        """Refuse a table or an object without the field of the text."""
        names = list(names)
        if self.text_key not in names:
            raise StageError(
                f"{place}: no {self.text_key!r} here; set `text_field` to one of {', '.join(map(repr, names))}"
            )


class TextReader(SourceReader):
    """Text files, one document a file."""

    name = "Text"
    kind = "text file"
    not_text: ClassVar[tuple[str, ...]] = (".zip", ".tar", ".tgz", ".7z", ".rar", ".lz4", ".parquet", ".arrow")

    @classmethod
    def check_file(cls, path: str, size: int) -> None:
        """Refuse archives; any other name may be a text file's, and text files may be empty."""
        suffix = format_suffix(path)
        if suffix in cls.not_text:
            raise StageError(
                f"{path}: {suffix!r} is not a {cls.kind}; unpack it ({', '.join(COMPRESSIONS)} around a single text "
                "file are fine), or narrow the pattern of the source"
            )

    def read_file(self, filepath: str) -> Iterator[Document]:
        """The file's text."""
        with self.open_text(filepath) as file:
            yield Document(text=file.read(), id=filepath)


class JsonlReader(SourceReader):
    """JSON lines, one document a line."""

    name = "JSON lines"
    kind = "JSON lines file"
    suffixes = (".jsonl", ".ndjson", ".json")

    def read_file(self, filepath: str) -> Iterator[Document]:
        """Its lines, the blank ones left out."""
        with self.open_text(filepath) as file:
            for number, line in enumerate(file, 1):
                if not line.strip():
                    continue
                place = f"{filepath}:{number}"
                try:
                    row = orjson.loads(line)
                except orjson.JSONDecodeError as error:
                    raise StageError(f"{place}: not JSON ({error}); mend or delete the line") from None
                if not isinstance(row, dict):
                    raise StageError(f"{place}: expected an object, found {type(row).__name__}")
                self.require_text_field(row, place)
                yield Document(text=self.text_of(row[self.text_key], place), id=place)


class CsvReader(SourceReader):
    """Comma-separated files with a header line, one document a row."""

    name = "CSV"
    kind = "CSV file"
    suffixes = (".csv",)

    def read_file(self, filepath: str) -> Iterator[Document]:
        """Its rows; a document is named by the line where its row ends."""
        with self.open_text(filepath, newline="") as file:
            rows = csv.reader(file, strict=True)
            try:
                header = next(rows, [])
                self.require_text_field(header, filepath)
                column = header.index(self.text_key)
                for row in rows:
                    place = f"{filepath}:{rows.line_num}"
                    if row and len(row) != len(header):
                        raise StageError(
                            f"{place}: {len(row)} columns under a header of {len(header)}; "
                            "a text with a comma or a line break needs quotes"
                        )
                    if row:
                        yield Document(text=row[column], id=place)
            except csv.Error as error:
                raise StageError(f"{filepath}:{rows.line_num}: not CSV ({error}); mend the row") from error


class ParquetReader(SourceReader):
    """Parquet tables, one document a row."""

    name = "Parquet"
    kind = "Parquet file"
    suffixes = (".parquet", ".pq")
    compressed = False

    def read_file(self, filepath: str) -> Iterator[Document]:
        """Its rows, numbered from 1."""
        with self.open(filepath, "rb") as file, pyarrow.parquet.ParquetFile(file) as table:
            self.require_text_field(table.schema_arrow.names, filepath)
            row = 0
            for batch in table.iter_batches(batch_size=1000, columns=[self.text_key]):
                for value in batch.column(0).to_pylist():
                    row += 1
                    place = f"{filepath}:{row}"
                    yield Document(text=self.text_of(value, place), id=place)


_READERS: dict[type[Source], type[SourceReader]] = {
    TextFiles: TextReader,
    JsonlFiles: JsonlReader,
    CsvFiles: CsvReader,
    ParquetFiles: ParquetReader,
}


def reader_of(source: Source) -> SourceReader:
    """The reader of a source, after its files were found.

    Raises:
        StageError: a pattern matches no file, or a file can't be of the source's format.
    """
    if isinstance(source, PythonStdlib):
        return TextReader(stdlib.folder(), stdlib.modules(stdlib.folder()))
    paths: set[str] = set()
    for pattern in source.paths:
        matching = {PurePath(path).as_posix() for path in glob.glob(pattern, recursive=True) if Path(path).is_file()}
        if not matching:
            raise StageError(f"{pattern}: no file matches this pattern; it is relative to the project, {Path.cwd()}")
        paths |= matching
    fields = {} if isinstance(source, TextFiles) else {"text_field": source.text_field}
    return _READERS[type(source)](Path(), sorted(paths), **fields)


def format_suffix(path: str) -> str:
    """The suffix that tells the format: the one before the suffix of a compression, in lower case."""
    name = PurePath(path)
    return (PurePath(name.stem) if name.suffix in COMPRESSIONS else name).suffix.lower()
