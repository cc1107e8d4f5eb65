"""What a model's files say without reading a weight."""

from collections.abc import Sequence
from typing import Any

import attrs

SHOWN = 3
"""Of several things that are wrong in the same way, how many are named."""


class Damaged(ValueError):
    """A file that can't be read as what it claims to be, with the reason in the user's words."""


@attrs.frozen
class Tensor:
    """One weight, as the header of its file describes it."""

    dtype: str
    """Its number format, as the file names it: `BF16`, `Q4_1`."""

    shape: tuple[int, ...]
    """Its lengths in transformers' order: rows first."""

    file: str
    """The file that holds it."""

    start: int
    """Where its first byte is in the file."""

    size: int
    """Its bytes."""


@attrs.frozen
class Tokens:
    """What is known of a tokenizer without loading it."""

    count: int
    """Tokens in the vocabulary, added ones included: one more than the largest id."""

    has_end_of_text: bool
    """Whether it names a token that ends a text, and has it."""

    has_separator: bool
    """Whether it names a token that ends a part of what an encoder reads, and has it."""


@attrs.frozen
class Contents:
    """A folder in the transformers format, or a GGUF file in its terms."""

    config: dict[str, Any]
    """Its `config.json`; empty if that can't be read."""

    tensors: dict[str, Tensor]
    """Its weights by transformers' names; none if something is wrong with their files."""

    files: tuple[str, ...]
    """The files that hold them, relative to the folder."""

    tokenizer: Tokens | None
    """Its tokenizer; None if there is none that can be read."""

    faults: tuple[str, ...]
    """What is wrong with the files, each with the file's name."""


def listed(names: Sequence[str]) -> str:
    """Some of the names, and how many more there are."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{', '.join(map(repr, names[:SHOWN]))}{more}"
