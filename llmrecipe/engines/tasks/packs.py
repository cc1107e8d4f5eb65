"""Sequences read several at once, none of which reads another."""

import bisect
from collections.abc import Sequence

import attrs
import torch

from llmrecipe.engines.tasks.items import UNLABELLED, Batch, Item


@attrs.frozen
class Pack:
    """Sequences that are one for a model, but for their positions, which begin again with each."""

    items: tuple[Item, ...]

    @property
    def length(self) -> int:
        """Tokens that they have together."""
        return sum(item.length for item in self.items)


def packed(items: Sequence[Item], room: int) -> list[Pack]:
    """Packs of at most `room` tokens: the longest first, each into the fullest that has room for it (best fit)."""
    packs: list[list[Item]] = []
    free: list[tuple[int, int]] = []
    """How much room is left in which pack, in ascending order."""
    for item in sorted(items, key=lambda each: -each.length):
        at = bisect.bisect_left(free, (item.length, 0))
        left, pack = free.pop(at) if at < len(free) else (room, len(packs))
        if pack == len(packs):
            packs.append([])
        packs[pack].append(item)
        bisect.insort(free, (left - item.length, pack))
    return [Pack(tuple(each)) for each in packs]


def batch_of(packs: Sequence[Pack], fill_id: int, fillers: int) -> Batch:
    """What a decoder reads of packs: `input_ids`, `labels` and `position_ids`, `int64[packs, length]`; `owners` has the
    example of each token.

    transformers keeps attention within what positions say is one sequence, as long as no mask is given. What fills up
    is a sequence of its own.
    """
    longest = max(pack.length for pack in packs)
    made: dict[str, list[list[int]]] = {"input_ids": [], "labels": [], "position_ids": [], "owners": []}
    for pack in packs:
        missing = longest - pack.length
        made["input_ids"].append([token for item in pack.items for token in item.input_ids] + [fill_id] * missing)
        made["labels"].append([label for item in pack.items for label in item.labels] + [UNLABELLED] * missing)
        made["position_ids"].append(
            [place for item in pack.items for place in range(item.length)] + list(range(missing))
        )
        made["owners"].append([item.example for item in pack.items for _ in range(item.length)] + [-1] * missing)
    batch = {name: torch.tensor(rows) for name, rows in made.items()}
    batch["labels"][len(packs) - fillers :] = UNLABELLED
    return batch
