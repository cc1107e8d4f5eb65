"""Examples drawn again: how far a number may be from what it is on the ones there are."""

from collections.abc import Iterator

import numpy as np

from llmrecipe.engines.tasks.score import Pooled

FEW = 2
"""Examples of which no interval is taken."""

_DRAWS = 4000

_SEED = 0

_AT_ONCE = 1 << 20
"""Examples drawn at once."""

_TAILS = (2.5, 97.5)
"""Percentiles between which 95 % lie."""


def generator() -> np.random.Generator:
    """What draws, always the same."""
    return np.random.default_rng(_SEED)


def drawn(count: int, of: np.random.Generator) -> Iterator[np.ndarray]:
    """Which of `count` examples are in each sample, as many as there are, `int64[samples, count]`, some at a time."""
    at_once = max(1, _AT_ONCE // count)
    for start in range(0, _DRAWS, at_once):
        yield of.integers(0, count, size=(min(at_once, _DRAWS - start), count))


def ends(values: np.ndarray) -> tuple[float, float]:
    """Between which 95 % of the values of samples lie: the percentile method (Efron 1979)."""
    low, high = np.percentile(values, _TAILS)
    return float(low), float(high)


def interval(of: Pooled) -> tuple[float, float]:
    """The ends of the 95 % interval of a number of all examples together."""
    samples = (sample for some in drawn(len(of.counts), generator()) for sample in some)
    return ends(np.array([of.number(of.counts[sample].sum(axis=0)) for sample in samples]))
