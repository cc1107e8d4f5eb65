"""A number by which models are compared."""

from collections.abc import Sequence
from typing import Literal

import attrs


@attrs.frozen(kw_only=True)
class Score:
    """A number that is a sum over examples divided by another, so that it can be had of any of them."""

    better: Literal["higher", "lower"]

    above: list[float]
    """What each example adds to the number."""

    below: list[float]
    """What each adds to what that is divided by."""

    @property
    def value(self) -> float:
        """The number for all examples; 0 where there is nothing to divide by."""
        below = sum(self.below)
        return sum(self.above) / below if below else 0.0


def mean(values: Sequence[float]) -> Score:
    """The mean of a number of which each example has one, and of which more is better."""
    return Score(better="higher", above=[float(value) for value in values], below=[1.0] * len(values))
