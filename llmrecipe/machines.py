"""Which machine a stage runs on: the `machine` entry of `params.yaml`, or a person's own choice; no stage tracks it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import yaml

from llmrecipe import codec
from llmrecipe.errors import StageError
from llmrecipe.recipe.machine import Machine
from llmrecipe.recipe.schema import shown

ENTRY = "machine"
"""Maps `default`, an owner (a model, a text, a recipe) or a stage to a machine."""

DEFAULT = "default"


@attrs.frozen
class Machines:
    """Machines by `default`, owner or stage, as one file or command names them."""

    entries: Mapping[str, Any]
    """Plain data of a machine, or a machine, by what runs on it."""

    source: str
    """Where they are named, for messages."""

    @classmethod
    def of(cls, data: Any, source: str) -> "Machines":
        """The machines in plain data.

        Raises:
            StageError: it isn't a mapping.
        """
        if not isinstance(data or {}, dict):
            raise StageError(f"{source}: must be a mapping of machines, got {shown(data)}; run `llmrecipe plan`")
        return cls(data or {}, source)

    def find(self, stage: str, owner: str) -> Machine | None:
        """The machine of a stage: its own, else its owner's, else the default; None if none is named.

        Raises:
            RecipeError: what is said of it can't be read.
        """
        for key in (stage, owner, DEFAULT):
            if key in self.entries:
                entry = self.entries[key]
                return entry if isinstance(entry, Machine) else codec.structure(entry, Machine, f"{self.source}.{key}")
        return None


NONE = Machines({}, "")
"""Nobody has chosen one."""


def planned(path: Path) -> Machines:
    """The machines that a file of parameters names; none if there is no file.

    Raises:
        StageError: it can't be read.
    """
    try:
        data = yaml.load(path.read_bytes(), Loader=yaml.CSafeLoader)
    except FileNotFoundError:
        return Machines({}, str(path))
    except yaml.YAMLError as error:
        raise StageError(f"{path}: not YAML: {error}") from None
    if not isinstance(data or {}, dict):
        raise StageError(f"{path}: must be a mapping; run `llmrecipe plan`")
    return Machines.of((data or {}).get(ENTRY), f"{path}:{ENTRY}")
