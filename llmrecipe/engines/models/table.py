"""A family's weights as a table: what each is called in nanotron and in transformers, and how one becomes the other.

nanotron keeps query, key and value in one matrix, gate and up in another, and pairs neighbouring channels in its rotary
positions where transformers pairs the halves of a head.
"""

from collections.abc import Callable, Iterable, Mapping

import attrs
import torch

Weights = dict[str, torch.Tensor]
"""A model's weights by name."""


@attrs.frozen
class Split:
    """Along which dimension tensor parallelism cuts a weight, and into which blocks before that."""

    dim: int
    """The dimension."""

    blocks: tuple[int, ...]
    """Sizes along it of what is cut by itself, such as query, key and value."""


@attrs.frozen
class Block:
    """Some rows of a weight in nanotron, as they are found in transformers."""

    name: str
    """Of the weight in transformers; blocks in a row of one name are parts of it, in their order."""

    rows: int | None = None
    """How many; None for all that there are."""

    head_size: int | None = attrs.field(default=None, kw_only=True)
    """Width of a head whose channels are rotated, and so lie in another order."""


@attrs.frozen
class Weight:
    """A weight in nanotron."""

    name: str
    """nanotron's name."""

    blocks: tuple[Block, ...]
    """What it consists of, from the first row on."""

    cut: int | None = attrs.field(default=None, kw_only=True)
    """The dimension along which tensor-parallel ranks share it; None keeps it whole on each."""

    is_of_vocabulary: bool = attrs.field(default=False, kw_only=True)
    """Whether it has a row for each token, and so is padded in nanotron."""

    def split(self, tensor: torch.Tensor) -> Split | None:
        """How tensor-parallel ranks share it; `tensor` is the whole."""
        if self.cut is None:
            return None
        sizes = tuple(block.rows for block in self.blocks if block.rows is not None)
        return Split(self.cut, sizes if sizes and self.cut == 0 else (tensor.shape[self.cut],))

    def joined(self, read: Callable[[str], torch.Tensor]) -> torch.Tensor:
        """The weight in nanotron, unpadded, from those that `read` gives by transformers' names."""
        names = dict.fromkeys(block.name for block in self.blocks)
        whole = [read(name) for name in names]
        if len(self.blocks) == 1:
            return _ordered(whole[0], self.blocks[0].head_size)
        rows = torch.cat(whole).split([block.rows or 0 for block in self.blocks])
        return torch.cat([_ordered(part, block.head_size) for part, block in zip(rows, self.blocks, strict=True)])

    def separated(self, tensor: torch.Tensor) -> Weights:
        """Those in transformers, by name."""
        rows = tensor.split([block.rows or len(tensor) for block in self.blocks])
        found: dict[str, list[torch.Tensor]] = {}
        for part, block in zip(rows, self.blocks, strict=True):
            found.setdefault(block.name, []).append(_as_in_transformers(part, block.head_size))
        return {name: parts[0].contiguous() if len(parts) == 1 else torch.cat(parts) for name, parts in found.items()}


def same(names: Mapping[str, str], *, cut: int | None = None) -> list[Weight]:
    """Weights that are the same in both libraries: transformers' names by nanotron's."""
    return [Weight(ours, (Block(theirs),), cut=cut) for ours, theirs in names.items()]


def padded(tensor: torch.Tensor, rows: int) -> torch.Tensor:
    """A weight with a row for each token, with rows of zeros up to `rows`."""
    missing = rows - len(tensor)
    return torch.cat((tensor, tensor.new_zeros(missing, *tensor.shape[1:]))) if missing else tensor


def names_in_transformers(table: Iterable[Weight]) -> set[str]:
    """All that a table reads."""
    return {block.name for weight in table for block in weight.blocks}


def interleave(weight: torch.Tensor, head_size: int) -> torch.Tensor:
    """Rows of queries or keys with those that are rotated together next to each other, as nanotron pairs them."""
    return weight.unflatten(0, (-1, 2, head_size // 2)).transpose(1, 2).reshape(weight.shape)


def deinterleave(weight: torch.Tensor, head_size: int) -> torch.Tensor:
    """The other way: half a head apart, as transformers pairs them."""
    return weight.unflatten(0, (-1, head_size // 2, 2)).transpose(1, 2).reshape(weight.shape)


def _ordered(rows: torch.Tensor, head_size: int | None) -> torch.Tensor:
    return rows if head_size is None else interleave(rows, head_size)


def _as_in_transformers(rows: torch.Tensor, head_size: int | None) -> torch.Tensor:
    return rows if head_size is None else deinterleave(rows, head_size)
