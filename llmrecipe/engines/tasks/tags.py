"""Tags of words by which entities are written down, and the entities.

IOB1 (Ramshaw and Marcus 1995) begins an entity with `I-`, and with `B-` only behind another of its type; IOB2 always
with `B-`. IOBES, also BIOES and BILOU, marks the last word of an entity (`E-` or `L-`) and one of a single word (`S-`
or `U-`), too.
"""

from collections.abc import Sequence
from typing import NamedTuple

OUTSIDE = "O"

_ENDS, _SINGLES = "EL", "SU"


class Entity(NamedTuple):
    """Words of a sentence that name something."""

    kind: str
    """Its type: `PER`."""

    first: int
    """The first of its words."""

    end: int
    """The word after its last."""


def fault(tag: object) -> str | None:
    """Why this is no tag of a known scheme; None if it is one."""
    if not isinstance(tag, str):
        return f"{tag!r} is no text"
    prefix, dash, kind = tag.partition("-")
    if tag != OUTSIDE and not (dash and kind and prefix in ("B", "I", *_ENDS, *_SINGLES)):
        return (
            f"{tag!r} is no tag of IOB, IOB2 or IOBES (BILOU); write 'O', or 'B-' or 'I-' before the type, as in "
            "'B-PER'"
        )
    return None


def entities(tags: Sequence[str]) -> list[Entity]:
    """The entities of a sentence by its tags, in any of the schemes.

    What the scheme forbids, such as an `I-` behind another type, begins an entity, as in seqeval and CoNLL's own
    program.
    """
    found: list[Entity] = []
    first, kind = 0, ""
    for index, tag in enumerate([*tags, OUTSIDE]):
        prefix, _, own = tag.partition("-")
        goes_on = kind and own == kind and prefix in ("I", *_ENDS)
        if kind and not goes_on:
            found.append(Entity(kind, first, index))
            kind = ""
        if not goes_on and own:
            first, kind = index, own
        if kind and prefix in (*_ENDS, *_SINGLES):
            found.append(Entity(kind, first, index + 1))
            kind = ""
    return found


def iob2(tags: Sequence[str]) -> list[str]:
    """The same entities in IOB2."""
    made = [OUTSIDE] * len(tags)
    for entity in entities(tags):
        made[entity.first] = f"B-{entity.kind}"
        for index in range(entity.first + 1, entity.end):
            made[index] = f"I-{entity.kind}"
    return made


def labels_of(kinds: Sequence[str]) -> list[str]:
    """Every tag of IOB2 for these types, in the order of a model's outputs: `O` first."""
    return [OUTSIDE, *(f"{prefix}-{kind}" for kind in sorted(kinds) for prefix in "BI")]
