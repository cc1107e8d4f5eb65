"""Files of examples, as they lie there: rows with the line each is at."""

import csv
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from llmrecipe.errors import StageError

_SHOWN = 20
"""Of what is wrong with a file, how much is said."""

_PLACES = 5
"""Of the lines with which the same is wrong, how many are named."""

_DELIMITERS = {".csv": ",", ".tsv": "\t", ".tab": "\t"}

Row = tuple[int, dict[str, Any]]
"""A line's number and what it holds."""


class Faults:
    """What is wrong with a file, all of which is said at once."""

    def __init__(self, path: str) -> None:
        """Collect what is wrong with the file at `path`."""
        self._path = path
        self._found: dict[str, list[int | str]] = {}

    def add(self, place: int | str, reason: str) -> None:
        """Something is wrong at a line, or at a place that has a name."""
        places = self._found.setdefault(reason, [])
        if place not in places[-1:]:
            places.append(place)

    def refuse(self) -> None:
        """Raise what was found, once with the places of which it is true.

        Raises:
            StageError: something was.
        """
        if self._found:
            said = [f"{self._path}, {_where(places)}: {reason}" for reason, places in self._found.items()]
            more = len(said) - _SHOWN
            rest = [f"and {more:,} more in {self._path}"] if more > 0 else []
            raise StageError("\n".join([*said[:_SHOWN], *rest]))


def _where(places: Sequence[int | str]) -> str:
    more = len(places) - _PLACES
    named = ", ".join(map(str, places[:_PLACES])) + (f" and {more:,} more" if more > 0 else "")
    if isinstance(places[0], str):
        return named
    return f"line {named}" if len(places) == 1 else f"lines {named}"


def lines(path: Path, name: str) -> Iterator[tuple[int, str]]:
    """The lines of a text with their numbers, from 1, without their ends.

    Raises:
        StageError: it is no UTF-8.
    """
    try:
        with open(path, encoding="utf-8-sig") as file:
            yield from enumerate((line.rstrip("\r\n") for line in file), 1)
    except UnicodeDecodeError as error:
        reason = f"is no UTF-8 ({error.reason} at byte {error.start}); convert it, as by iconv"
        raise StageError(f"{name}: {reason}") from None


def rows(path: Path, name: str, faults: Faults) -> Iterator[Row]:
    """The rows of a table or of JSON lines.

    Args:
        path: the file.
        name: what it is called in messages.
        faults: gets what is wrong with it.

    Raises:
        StageError: it is no UTF-8, or of another kind.
    """
    if path.suffix == ".jsonl":
        yield from json_rows(path, name, faults)
    elif path.suffix in _DELIMITERS:
        yield from _table_rows(path, name, faults)
    else:
        known = ", ".join(["'.jsonl'", *map(repr, _DELIMITERS)])
        raise StageError(f"{name}: a file that ends in {path.suffix!r} is none of {known}; rename or convert it")


def json_rows(path: Path, name: str, faults: Faults) -> Iterator[Row]:
    """The objects of JSON lines; as `rows`."""
    for number, line in lines(path, name):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            json.dumps(row, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            faults.add(number, "holds half of a surrogate pair, which is no character")
            continue
        except ValueError as error:
            faults.add(number, f"is no JSON: {error}")
            continue
        if isinstance(row, dict):
            yield number, row
        else:
            faults.add(number, 'holds no object; write {"text": …} or the like')


def _table_rows(path: Path, name: str, faults: Faults) -> Iterator[Row]:
    delimiter = _DELIMITERS[path.suffix]
    # Quotes are signs like others where tabs separate; and texts may be longer than 128 KB.
    quoting: Any = csv.QUOTE_NONE if delimiter == "\t" else csv.QUOTE_MINIMAL
    csv.field_size_limit(sys.maxsize)
    texts = (line + "\n" for _, line in lines(path, name))
    reader = csv.DictReader(texts, delimiter=delimiter, quoting=quoting, strict=True)
    try:
        for row in reader:
            if None in row or None in row.values():
                count = len(reader.fieldnames or ())
                faults.add(reader.line_num, f"has another number of columns than the header, which has {count}")
            else:
                yield reader.line_num, row
    except csv.Error as error:
        # `DictReader` counts a line once it has it whole.
        faults.add(reader.reader.line_num, str(error))


def value(row: Mapping[str, Any], field: str, place: int | str, faults: Faults) -> Any:
    """What a row has; None, and a fault, if it has it not."""
    if field not in row or row[field] is None:
        keys = ", ".join(map(repr, row))
        faults.add(place, f"has no {field!r}; it has {keys or 'nothing'}")
        return None
    return row[field]


def text(row: Mapping[str, Any], field: str, place: int | str, faults: Faults) -> str:
    """The text that a row has; an empty one, and a fault, if it has none."""
    found = value(row, field, place, faults)
    if found is not None and not (isinstance(found, str) and found.strip()):
        faults.add(place, f"{field!r} must be a text that isn't empty, got {found!r}")
    return found if isinstance(found, str) else ""
