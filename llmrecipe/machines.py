"""Which machine a stage runs on: the `machine` entry of `params.yaml`, which no stage tracks."""

from pathlib import Path
from typing import Any

from llmrecipe import codec
from llmrecipe.errors import StageError
from llmrecipe.recipe.machine import Machine
from llmrecipe.recipe.schema import shown

ENTRY = "machine"
"""Maps `default`, an owner (a model, a text, a recipe) or a stage to a machine."""

DEFAULT = "default"


def machine_of(stage: str, owner: str, entry: Any, params: Path) -> Machine:
    """The machine of a stage: its own, else its owner's, else the default.

    Raises:
        StageError: the entry is no mapping.
        RecipeError: what it says of a machine can't be read.
    """
    known = entry or {}
    if not isinstance(known, dict):
        raise StageError(f"{params}:{ENTRY}: must be a mapping of machines, got {shown(known)}; run `llmrecipe plan`")
    key = next((key for key in (stage, owner, DEFAULT) if key in known), None)
    return codec.structure(known[key], Machine, f"{params}:{ENTRY}.{key}") if key else Machine()
