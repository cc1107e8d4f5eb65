"""The numbers of a run for those who watch it: event files for TensorBoard, and offline ones for W&B."""

import importlib.util
import shutil
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Any

from llmrecipe import artifacts
from llmrecipe.engines.runs.metrics import Row
from llmrecipe.errors import StageError

Write = Callable[[int, dict[str, float]], object]
"""Writes the numbers of a step by name."""


def refuse_missing(kinds: Collection[str], name: str) -> None:
    """Refuse kinds whose package isn't installed; `name` is the stage's.

    Raises:
        StageError: such a one.
    """
    for kind in kinds:
        if importlib.util.find_spec(kind) is None:
            raise StageError(
                f"{name}: machine.events asks for {kind!r}, whose package isn't installed here; `pip install "
                f"'llmrecipe[{kind}]'`, or take it out of the machine's events"
            )


class Events:
    """The event files of a run, in a folder by kind; they are open for writing, from its first step on."""

    def __init__(self, kinds: Collection[str], folder: Path, name: str, rows: Iterable[Row]) -> None:
        """Replace what is in `folder` by event files of these kinds, with the rows of the run `name` so far."""
        if kinds:
            artifacts.own_folder(folder)
        self._writers = [_WRITERS[kind](_emptied(folder / kind), name) for kind in kinds]
        for row in rows:
            self.append(row)

    def append(self, row: Row) -> None:
        """Write the numbers of a step."""
        numbers = {key: float(value) for key, value in row.items() if key != "step" and isinstance(value, int | float)}
        for write, _ in self._writers:
            write(row["step"], numbers)

    def close(self) -> None:
        """Write what is left, and close the files."""
        for _, close in self._writers:
            close()


def complete(kinds: Collection[str], folder: Path, name: str, rows: Iterable[Row]) -> None:
    """Write the event files of a finished run, unless its ranks have."""
    missing = [kind for kind in kinds if not (folder / kind).is_dir()]
    Events(missing, folder, name, rows).close()


def _emptied(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder


def _tensorboard(folder: Path, name: str) -> tuple[Write, Callable[[], object]]:
    # Only there when a machine asks for it.
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(folder), flush_secs=10)

    def write(step: int, numbers: dict[str, float]) -> None:
        for key, number in numbers.items():
            writer.add_scalar(key, number, step)

    return write, writer.close


def _wandb(folder: Path, name: str) -> tuple[Write, Callable[[], object]]:
    import wandb

    run: Any = wandb.init(
        mode="offline",
        dir=str(folder),
        project="llmrecipe",
        name=name,
        settings=wandb.Settings(silent=True, console="off", disable_git=True, disable_code=True),
    )
    return lambda step, numbers: run.log(numbers, step=step), run.finish


_WRITERS = {"tensorboard": _tensorboard, "wandb": _wandb}
