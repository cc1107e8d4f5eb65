"""Weights by name, how a weight is cut over tensor-parallel ranks, and the order of rotated channels."""

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


def interleave(weight: torch.Tensor, head_dim: int) -> torch.Tensor:
    """Rows of queries or keys with those that are rotated together next to each other, as nanotron pairs them."""
    return weight.unflatten(0, (-1, 2, head_dim // 2)).transpose(1, 2).reshape(weight.shape)


def deinterleave(weight: torch.Tensor, head_dim: int) -> torch.Tensor:
    """The other way: half a head apart, as transformers pairs them."""
    return weight.unflatten(0, (-1, head_dim // 2, 2)).transpose(1, 2).reshape(weight.shape)
