"""What was measured of a run, seconds and tokens per second: kept for the outputs that it gave, and found by them.

No output holds times, so DVC brings outputs back without. By the digest of the outputs those of the same are found
again, and never those of others that the same stage has left since.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llmrecipe import artifacts, identity, layout

RUN = "run.json"


def folder(stage: str, output: Path) -> Path:
    """Where the times of the run that gave what a stage's output folder holds now are, if they are known."""
    return layout.TIMES / stage / identity.of_outputs(output)[:16]


def write(
    stage: str, output: Path, measured: Mapping[str, Any], curves: Mapping[str, Sequence[Mapping[str, Any]]]
) -> None:
    """Keep what was measured of the run that has just left this output folder, and tables by name, with rows."""
    directory = folder(stage, output)
    directory.mkdir(parents=True, exist_ok=True)
    for curve, rows in curves.items():
        artifacts.write_csv(directory / f"{curve}.csv", list(rows[0]), rows)
    artifacts.write_json(directory / RUN, measured)


def read(stage: str, output: Path) -> dict[str, Any] | None:
    """What was measured of the run that gave what this output folder holds; None if that wasn't on this machine."""
    return of(stage, identity.of_outputs(output))


def of(stage: str, outputs: str) -> dict[str, Any] | None:
    """What was measured of the run that gave outputs with this digest (`identity.of_outputs`), if it was here."""
    path = layout.TIMES / stage / outputs[:16] / RUN
    measured: dict[str, Any] | None = artifacts.read_json(path) if path.is_file() else None
    return measured
