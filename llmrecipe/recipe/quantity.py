"""Amounts that carry their unit."""

import attrs

from llmrecipe.recipe.schema import Word, quantity
from llmrecipe.recipe.validators import between, greater_than

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


@quantity("epochs")
class Epochs(Word):
    """A number of times that a run reads as many sequences as its training text has.

    Of a mixture, as many as its corpora have together; it draws them by their weights.
    """

    count: float = attrs.field(validator=greater_than(0, 10**6))
    """How many, also parts of one; rounded up to whole steps."""


@quantity("fraction")
class Fraction(Word):
    """A share of a whole that the field's owner names."""

    of_total: float = attrs.field(validator=between(0, 1))
    """Between 0 and 1."""


Duration = Tokens | Steps | Epochs
Phase = Steps | Fraction
"""The length of a part of a run; a share is of its steps, rounded up."""
