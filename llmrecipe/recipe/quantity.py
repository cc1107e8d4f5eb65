"""Amounts that carry their unit."""

import attrs

from llmrecipe.recipe.schema import Word, quantity
from llmrecipe.recipe.validators import between

MOST_TOKENS = 10**15
"""Of a run: some dozen times what the largest have read."""


@quantity("tokens")
class Tokens(Word):
    """A number of training tokens."""

    count: int = attrs.field(validator=between(1, MOST_TOKENS))
    """How many; rounded up to whole steps."""


@quantity("steps")
class Steps(Word):
    """A number of optimizer steps."""

    count: int = attrs.field(validator=between(0, 10**9))
    """How many."""


@quantity("fraction")
class Fraction(Word):
    """A share of a whole that the field's owner names."""

    of_total: float = attrs.field(validator=between(0, 1))
    """Between 0 and 1."""


Duration = Tokens | Steps
Phase = Steps | Fraction
"""The length of a part of a run; a share is of its steps, rounded up."""
