"""Numbers of examples, so kept that they can be had of any of them."""

import math
from collections.abc import Callable, Sequence
from typing import Literal

import attrs
import numpy as np


@attrs.frozen(kw_only=True)
class Score:
    """A number by which models are compared: a sum over examples divided by another."""

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


@attrs.frozen(kw_only=True, eq=False)
class Pooled:
    """A number of all examples together, which is more than one sum divided by another."""

    counts: np.ndarray
    """What each example adds to sums, `[examples, …]`."""

    number: Callable[[np.ndarray], float]
    """The number, of the sums."""

    @property
    def value(self) -> float:
        """The number for all examples."""
        return self.number(self.counts.sum(axis=0))


def mean(values: Sequence[float]) -> Score:
    """The mean of a number of which each example has one, and of which more is better."""
    return Score(better="higher", above=[float(value) for value in values], below=[1.0] * len(values))


def mean_where(values: Sequence[float], counts: Sequence[bool]) -> Pooled:
    """The mean of the values that count; 0 where none does."""
    there = np.array(counts, dtype=np.float64)
    return Pooled(counts=np.stack([np.array(values) * there, there], axis=1), number=_divided)


def _divided(sums: np.ndarray) -> float:
    return float(sums[0] / sums[1]) if sums[1] else 0.0


def correlation(own: Sequence[float], said: Sequence[float]) -> Pooled:
    """Pearson's correlation of two numbers of each example; 0 where one of both is always the same."""
    one, other = (np.array(each, dtype=np.float64) for each in (own, said))
    # About their means, so that squares don't swallow what differs.
    one, other = one - one.mean(), other - other.mean()
    columns = [np.ones_like(one), one, other, one * one, other * other, one * other]
    return Pooled(counts=np.stack(columns, axis=1), number=_correlation)


def _correlation(sums: np.ndarray) -> float:
    count, one, other, one_squared, other_squared, product = sums.tolist()
    squares = ((one_squared, one), (other_squared, other))
    spread = [square - total * total / count for square, total in squares]
    # What is always the same spreads by no more than rounding.
    if any(each <= 1e-12 * square for each, (square, _) in zip(spread, squares, strict=True)):
        return 0.0
    return float((product - one * other / count) / math.sqrt(spread[0] * spread[1]))
