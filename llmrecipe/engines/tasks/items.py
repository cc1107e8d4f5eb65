"""What a model reads of examples, and the batches of it."""

from collections.abc import Iterator, Sequence
from typing import Any

import attrs
import numpy as np
import torch

UNLABELLED = -100
"""In the place of a label that isn't there, as in transformers."""

_NEAR = 50
"""Batches whose examples are sorted by length together."""


@attrs.frozen(kw_only=True)
class Item:
    """A sequence that a model reads at once."""

    input_ids: list[int]
    """Its tokens."""

    labels: Any
    """What is predicted: a label for each token, or one, or numbers."""

    token_types: list[int] | None = None
    """The type of each token, if they have any."""

    places: tuple[tuple[int, int, int], ...] = ()
    """Of tokens that are predicted by themselves: the place, the example and the word there."""

    example: int = 0
    """The example, if there is one alone."""

    @property
    def length(self) -> int:
        """Tokens that it has."""
        return len(self.input_ids)


Batch = dict[str, torch.Tensor]


@attrs.frozen(kw_only=True)
class Padding:
    """How sequences become as long as the longest beside them."""

    token_id: int
    """What fills up."""

    has_labels_by_token: bool
    """Whether each token has a label."""

    labels_type: torch.dtype = torch.int64
    """Type of labels."""

    def batch(self, items: Sequence[Item], fillers: int = 0) -> Batch:
        """What a model reads of these; the last `fillers` of them count for nothing."""
        longest = max(item.length for item in items)

        def padded(values: list[int], fill: int) -> list[int]:
            return [*values, *[fill] * (longest - len(values))]

        made = {
            "input_ids": torch.tensor([padded(item.input_ids, self.token_id) for item in items]),
            "attention_mask": torch.tensor([padded([1] * item.length, 0) for item in items]),
        }
        if items[0].token_types is not None:
            made["token_type_ids"] = torch.tensor([padded(item.token_types or [], 0) for item in items])
        if self.has_labels_by_token:
            made["labels"] = torch.tensor([padded(item.labels, UNLABELLED) for item in items])
        else:
            made["labels"] = torch.tensor([item.labels for item in items], dtype=self.labels_type)
        counts = torch.ones(len(items), dtype=torch.bool)
        counts[len(items) - fillers :] = False
        return made | {"counts": counts}


def order(lengths: Sequence[int], size: int, seed: int, epoch: int, *, by_length: bool) -> list[int]:
    """The order in which an epoch reads items, all of them once, `size` at a step.

    Args:
        lengths: tokens of each item.
        size: items of a step.
        seed: decides it.
        epoch: its number; each has an order of its own.
        by_length: whether a step's items are of like length.
    """
    generator = np.random.default_rng([seed, epoch])
    drawn = generator.permutation(len(lengths))
    if not by_length:
        return [int(index) for index in drawn]
    near = size * _NEAR
    steps: list[np.ndarray] = []
    rest = drawn[len(drawn) // size * size :]
    for start in range(0, len(drawn) - len(rest), near):
        part = drawn[start : min(start + near, len(drawn) - len(rest))]
        part = part[np.argsort(np.array(lengths)[part], kind="stable")]
        steps += np.array_split(part, len(part) // size)
    shuffled = [steps[index] for index in generator.permutation(len(steps))]
    # What fills no whole step comes last.
    return [int(index) for index in np.concatenate([*shuffled, rest])]


def steps(items: Sequence[Item], size: int, seed: int, *, by_length: bool, first: int) -> Iterator[list[Item]]:
    """The items of each step without end, from a step on; the last step of an epoch may have fewer."""
    lengths = [item.length for item in items]
    each = -(-len(items) // size)
    epoch, step = divmod(first, each)
    while True:
        drawn = order(lengths, size, seed, epoch, by_length=by_length)
        for start in range(step * size, len(drawn), size):
            yield [items[index] for index in drawn[start : start + size]]
        epoch, step = epoch + 1, 0


def shared(items: Sequence[Item], size: int, ranks: int, rank: int, rounds: int) -> list[tuple[list[Item], int]]:
    """A rank's micro-batches of `size` of a step: items, and how many of the last are fillers that don't count.

    Micro-batches go round the ranks, and every rank has `rounds`, so that all compute as often.
    """
    found = []
    for number in range(rounds):
        start = (number * ranks + rank) * size
        mine = list(items[start : start + size])
        missing = 0 if mine else 1
        found.append((mine or [items[0]], missing))
    return found
