"""Readers of text, JSON lines, CSV and Parquet."""

import csv
import json
import sys
import tokenize
from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar, TextIO

import orjson
import pyarrow.parquet
from datatrove.data import Document

from llmrecipe.engines.datatrove.readers.reading import FileReader, format_suffix
from llmrecipe.engines.datatrove.readers.signs import COMPRESSIONS
from llmrecipe.errors import StageError

# The module's own limit, 128 KiB, is less than many documents.
csv.field_size_limit(sys.maxsize)

_DELIMITERS = ",;\t|"
"""What columns are separated by in files that are found."""

_ONE_EACH = (
    "every line holds one object: mend or delete the line, or write a file of objects over several lines with "
    "`jq -c .`, and one with a list of them with `jq -c '.[]'`"
)


class TextReader(FileReader):
    """Text files, one document a file."""

    name = "Text"
    kind = "text file"
    not_text: ClassVar[tuple[str, ...]] = (".zip", ".tar", ".tgz", ".7z", ".rar", ".lz4", ".parquet", ".arrow")

    @classmethod
    def check_file(cls, name: str, size: int) -> None:
        """Refuse archives; any other name may be a text file's, and text files may be empty."""
        suffix = format_suffix(name)
        if suffix in cls.not_text:
            raise StageError(
                f"{name}: {suffix!r} is not a {cls.kind}; unpack it ({', '.join(COMPRESSIONS)} around a single text "
                "file are fine), or narrow the pattern of the source"
            )

    def rows(self, name: str) -> Iterator[tuple[str, str]]:
        """The file's text."""
        with self.open_text(name) as file:
            yield name, file.read()

    def document(self, row: str, place: str) -> Document:
        """The text as it is."""
        return Document(text=row, id=place)


class PythonReader(TextReader):
    """Python's source code, one document a module."""

    name = "Python"

    def open_text(self, name: str, newline: str | None = None) -> TextIO:
        """Open a module in the encoding that it declares."""
        return tokenize.open(self.files[name])


class JsonlReader(FileReader):
    """JSON lines, one document a line."""

    name = "JSON lines"
    kind = "JSON lines file"
    suffixes = (".jsonl", ".ndjson", ".json")

    def rows(self, name: str) -> Iterator[tuple[str, str]]:
        """Its lines, the blank ones left out."""
        with self.open_text(name) as file:
            for number, line in enumerate(file, 1):
                if line and not line.isspace():
                    yield f"{name}:{number}", line

    def document(self, row: str, place: str) -> Document:
        """The object in a line."""
        try:
            fields = orjson.loads(row)
        except orjson.JSONDecodeError as error:
            try:
                # It takes what it writes itself: NaN, infinity, and half a character.
                fields = json.loads(row)
            except (ValueError, RecursionError):
                raise StageError(f"{place}: not JSON ({error}); {_ONE_EACH}") from None
        if not isinstance(fields, dict):
            raise StageError(f"{place}: not an object ({type(fields).__name__}); {_ONE_EACH}")
        self.require_fields(fields, place)
        return self.of_fields(fields, place)


class CsvReader(FileReader):
    """Comma-separated files with a header line, one document a row."""

    name = "CSV"
    kind = "CSV file"
    suffixes = (".csv", ".tsv", ".tab")

    def __init__(self, files: Mapping[str, Path | str], *, delimiter: str = ",", **fields: str) -> None:
        """`delimiter` separates the columns; the others are as for `FileReader`."""
        super().__init__(files, **fields)
        self.delimiter = delimiter

    def rows(self, name: str) -> Iterator[tuple[str, dict[str, str]]]:
        """Its rows; a document is named by the line where its row ends."""
        with self.open_text(name, newline="") as file:
            first = next(file, "")
            rows = csv.reader(chain([first], file), delimiter=self.delimiter, strict=True)
            self._refuse_other_delimiter(first, name)
            try:
                header = next(rows, [])
                self.require_fields(header, name)
                for row in rows:
                    place = f"{name}:{rows.line_num}"
                    if row and len(row) != len(header):
                        raise StageError(
                            f"{place}: {len(row)} columns under a header of {len(header)}; "
                            f"a text with {self.delimiter!r} or a line break needs quotes"
                        )
                    if row:
                        yield place, dict(zip(header, row, strict=True))
            except csv.Error as error:
                raise StageError(f"{name}:{rows.line_num}: not CSV ({error}); mend the row") from error

    def _refuse_other_delimiter(self, line: str, name: str) -> None:
        """Refuse a header that has the column of the text, or more than one column, by another delimiter alone."""
        if line.startswith("sep="):
            raise StageError(
                f"{name}: begins with {line.strip()!r}, which only Excel reads; delete the line, and set "
                f"`delimiter={line.strip().removeprefix('sep=')!r}`"
            )
        columns = {sign: _columns(line, sign) for sign in dict.fromkeys((self.delimiter, *_DELIMITERS))}
        given = columns.pop(self.delimiter)
        if self.text_field in given:
            return
        for other, found in columns.items():
            if self.text_field in found or len(given) < 2 <= len(found):
                raise StageError(
                    f"{name}: its columns seem to be separated by {other!r}, and not by {self.delimiter!r}: "
                    f"{', '.join(map(repr, found))}; set `delimiter={other!r}`"
                )

    def document(self, row: dict[str, str], place: str) -> Document:
        """A row under the header."""
        return self.of_fields(row, place)


def _columns(line: str, delimiter: str) -> list[str]:
    """The columns of a header; none if it can't be one of these."""
    try:
        return next(csv.reader([line], delimiter=delimiter, strict=True), [])
    except csv.Error:
        return []


class ParquetReader(FileReader):
    """Parquet tables, one document a row."""

    name = "Parquet"
    kind = "Parquet file"
    suffixes = (".parquet", ".pq")
    sign = b"PAR1"
    compressed = False

    def rows(self, name: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """Its rows, numbered from 1."""
        columns = [column for column in (self.text_field, self.url_field) if column]
        with self.open(name) as file, pyarrow.parquet.ParquetFile(file, page_checksum_verification=True) as table:
            self.require_fields(table.schema_arrow.names, name)
            number = 0
            for batch in table.iter_batches(batch_size=1000, columns=columns):
                for values in zip(*(column.to_pylist() for column in batch.columns), strict=True):
                    number += 1
                    yield f"{name}:{number}", dict(zip(batch.schema.names, values, strict=True))

    def document(self, row: dict[str, Any], place: str) -> Document:
        """A row of the table."""
        return self.of_fields(row, place)
