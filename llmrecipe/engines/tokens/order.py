"""Which sequence a run reads when: the same for every layout, number of workers and interruption."""

import functools
import itertools
import math
from collections.abc import Iterable, Sequence
from fractions import Fraction
from typing import Any

import attrs
import numpy as np

BLOCK = 1000
"""Samples that are dealt out over the corpora of a mixture at once."""


def _as_tuple(values: Iterable[Any]) -> tuple[Any, ...]:
    return tuple(values)


@attrs.frozen(kw_only=True)
class SampleOrder:
    """The order of a run's samples, without end.

    A window is numbered over all corpora: those of the first, then those of the second, and so on.
    """

    sizes: tuple[int, ...]
    """Windows of each corpus, at least 1."""

    shares: tuple[float, ...]
    """Samples drawn from each corpus, relative to the others; at least 1 in 500 of all."""

    seed: int
    """Decides the order within each epoch of a corpus, and whose turn it is at first."""

    def samples(self, start: int, count: int) -> list[tuple[int, int]]:
        """Window and epoch, of its corpus, of samples `start` to `start + count`."""
        blocks = range(start // BLOCK, (start + count - 1) // BLOCK + 1)
        samples = [sample for block in blocks for sample in _samples_of_block(self, block)]
        return samples[start % BLOCK : start % BLOCK + count]

    def windows(self, start: int, count: int) -> list[int]:
        """The windows of samples `start` to `start + count`."""
        return [window for window, _ in self.samples(start, count)]

    def unshuffled(self, count: int) -> list[int]:
        """The windows of the first `count` samples if every corpus is read from its beginning, again and again."""
        found: list[int] = []
        offsets, sizes = _offsets(self.sizes), np.array(self.sizes)
        for block in range(-(-count // BLOCK)):
            corpora, indices = deal(self.shares, self.seed, block)
            found.extend((offsets[corpora] + indices % sizes[corpora]).tolist())
        return found[:count]

    def drawn(self, count: int) -> list[int]:
        """How many of the first `count` samples come from each corpus."""
        corpora, _ = deal(self.shares, self.seed, count // BLOCK)
        rest = count % BLOCK
        before = divide(count - rest, self.shares)
        return [first + int(np.count_nonzero(corpora[:rest] == corpus)) for corpus, first in enumerate(before)]


def permutation(size: int, seed: int, epoch: int, corpus: int = 0) -> np.ndarray:
    """The order in which an epoch reads the windows of a corpus, `int64[size]`."""
    return np.random.default_rng([seed, epoch, corpus]).permutation(size)


def deal(shares: Sequence[float], seed: int, block: int) -> tuple[np.ndarray, np.ndarray]:
    """Whose turn it is at each sample of a block of `BLOCK`, and which of all samples from that corpus it is.

    A corpus has a whole number of samples in every block, so after each block none is further than one sample
    from its exact share. Within a block its samples are spread evenly, beginning at a place that the seed decides.

    Returns:
        Number of the corpus and of its sample, `int64[BLOCK]` each.
    """
    before, after = divide(block * BLOCK, shares), divide((block + 1) * BLOCK, shares)
    counts = [stop - start for start, stop in zip(before, after, strict=True)]
    offsets = np.random.default_rng(seed).random(len(counts))
    places = [(np.arange(count) + offset) / max(count, 1) for count, offset in zip(counts, offsets, strict=True)]
    corpora = np.repeat(np.arange(len(counts)), counts)
    indices = np.concatenate([start + np.arange(count) for start, count in zip(before, counts, strict=True)])
    turn = np.argsort(np.concatenate(places), kind="stable")
    return corpora[turn], indices[turn]


def divide(count: int, shares: Sequence[float]) -> list[int]:
    """`count` in whole parts in proportion to `shares`, each to within one; in exact arithmetic, and they add up."""
    total, summed, bounds = sum(map(Fraction, shares)), Fraction(0), [0]
    for share in shares:
        summed += Fraction(share)
        # Not `round`, whose halves go to even numbers: a part of at least one could get none.
        bounds.append(math.floor(count * summed / total + Fraction(1, 2)))
    return [stop - start for start, stop in itertools.pairwise(bounds)]


def _offsets(sizes: Sequence[int]) -> np.ndarray:
    return np.cumsum([0, *sizes[:-1]])


@functools.lru_cache(maxsize=4)
def _samples_of_block(order: SampleOrder, block: int) -> list[tuple[int, int]]:
    corpora, indices = deal(order.shares, order.seed, block)
    windows, epochs = np.empty((2, BLOCK), dtype=np.int64)
    for corpus, (size, offset) in enumerate(zip(order.sizes, _offsets(order.sizes), strict=True)):
        mine = np.flatnonzero(corpora == corpus)
        epochs[mine], positions = np.divmod(indices[mine], size)
        for epoch in np.unique(epochs[mine]):
            here = epochs[mine] == epoch
            windows[mine[here]] = offset + _permutation(size, order.seed, int(epoch), corpus)[positions[here]]
    return list(zip(windows.tolist(), epochs.tolist(), strict=True))


# A block of a small mixture may reach over two epochs of each of its corpora.
_permutation = functools.lru_cache(maxsize=16)(permutation)
