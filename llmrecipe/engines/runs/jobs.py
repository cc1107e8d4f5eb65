"""What the launching process tells the ranks of a run, as one JSON file."""

import importlib
from pathlib import Path
from typing import Any, Protocol, TypeVar

from llmrecipe import artifacts, codec
from llmrecipe.recipe.machine import Machine
from llmrecipe.recipe.parallelism import Parallelism


class Launch(Protocol):
    """What every job says: one launch of a run, new or resumed."""

    @property
    def machine(self) -> Machine:
        """What it runs on; `device` is settled, never `auto`."""

    @property
    def parallelism(self) -> Parallelism:
        """How the run is spread over ranks."""

    @property
    def name(self) -> str:
        """The stage's name, for progress."""

    @property
    def state(self) -> str:
        """Folder of the resumable state."""

    @property
    def events(self) -> str:
        """Folder of the event files that `machine.events` asks for."""

    @property
    def modules(self) -> tuple[str, ...]:
        """Modules of the user's own that define words of the run."""


J = TypeVar("J", bound=Launch)


def write(job: Launch, path: Path) -> None:
    """Write a job for the ranks to read."""
    artifacts.write_json(path, codec.unstructure(job))


def read(path: Path, cls: type[J]) -> J:
    """Read a job that `write` wrote, with the words that the user's own modules define."""
    data: dict[str, Any] = artifacts.read_json(path)
    for module in data["modules"]:
        importlib.import_module(module)
    return codec.structure(data, cls, "job")
