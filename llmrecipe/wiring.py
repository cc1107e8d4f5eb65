"""What a section of the parameters holds besides its words: what its stage reads, and which modules define the words.

It isn't said on the command line, since its number and length are the user's, and Linux takes 128 KiB an argument.
"""

from collections.abc import Mapping
from typing import Any

import attrs

from llmrecipe import codec
from llmrecipe.errors import PlanError
from llmrecipe.sections import Section


@attrs.frozen(kw_only=True)
class Wiring:
    """How a stage is tied to the project."""

    inputs: dict[str, str] = attrs.field(factory=dict)
    """Input artifacts and files by role, relative to the project."""

    extensions: tuple[str, ...] = ()
    """Modules of the user's that define words of the section, or of the cards that it reads."""


TIES = tuple(field.name for field in attrs.fields(Wiring))
"""The keys of an entry that aren't its section's."""


def written(section: Section, wiring: Wiring) -> dict[str, Any]:
    """A stage's entry of the parameters, plain.

    Raises:
        PlanError: the section, which may be of a user's own, has fields of these names.
    """
    plain = codec.unstructure(section)
    for key in TIES:
        if key in plain:
            kind = type(section).__name__
            raise PlanError(f"{kind}.{key}: a stage's `{key}` stand under this name in its section; rename the field")
    ties = {key: value for key, value in codec.unstructure(wiring).items() if value}
    return {codec.TAG: plain.pop(codec.TAG)} | ties | plain


def read(entry: Any, path: str) -> tuple[Any, Wiring]:
    """The section of an entry, still plain, and its wiring; `path` is where the entry is, for messages.

    Raises:
        RecipeError: the wiring isn't one.
    """
    if not isinstance(entry, Mapping):
        return entry, Wiring()
    wiring = codec.structure({key: entry[key] for key in TIES if key in entry}, Wiring, path)
    return {key: value for key, value in entry.items() if key not in TIES}, wiring
