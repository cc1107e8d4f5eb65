"""What a section of the parameters holds besides its words: what its stage reads, and which modules define the words.

It isn't said on the command line, since its number and length are the user's, and Linux takes 128 KiB an argument.
"""

from collections.abc import Mapping
from typing import Any

import attrs

from llmrecipe import codec
from llmrecipe.sections import Section


@attrs.frozen(kw_only=True)
class Wiring:
    """How a stage is tied to the project."""

    inputs: dict[str, str] = attrs.field(factory=dict)
    """Input artifacts and files by role, relative to the project."""

    extensions: tuple[str, ...] = ()
    """Modules of the user's that define words of the section, or of the cards that it reads."""


def written(section: Section, wiring: Wiring) -> dict[str, Any]:
    """A stage's entry of the parameters, plain."""
    plain = codec.unstructure(section)
    ties = {key: value for key, value in codec.unstructure(wiring).items() if value}
    return {codec.TAG: plain.pop(codec.TAG)} | ties | plain


def read(entry: Any, path: str) -> tuple[Any, Wiring]:
    """The section of an entry, still plain, and its wiring; `path` is where the entry is, for messages.

    Raises:
        RecipeError: the wiring isn't one.
    """
    if not isinstance(entry, Mapping):
        return entry, Wiring()
    keys = [field.name for field in attrs.fields(Wiring)]
    wiring = codec.structure({key: entry[key] for key in keys if key in entry}, Wiring, path)
    return {key: value for key, value in entry.items() if key not in keys}, wiring
