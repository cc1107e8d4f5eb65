"""What a run records of its steps: JSON lines, one a step."""

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

Row = dict[str, Any]


class MetricsLog:
    """A log that is open for writing."""

    def __init__(self, path: Path) -> None:
        self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115

    def append(self, row: Mapping[str, Any]) -> None:
        """Write a row, for every reader to see at once."""
        self._file.write(json.dumps(row, sort_keys=True, allow_nan=False) + "\n")
        self._file.flush()

    def sync(self) -> None:
        """Wait until all rows are on the disk."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read(path: Path) -> list[Row]:
    """The whole rows of a log; a kill can leave a part of one at its end."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")[:-1]
    return [json.loads(line) for line in lines]


def best_step(rows: Iterable[Row]) -> int | None:
    """The step with the lowest validation loss, the first of them; None if none was measured."""
    measured = [(row["validation_loss"], row["step"]) for row in rows if "validation_loss" in row]
    return min(measured)[1] if measured else None
