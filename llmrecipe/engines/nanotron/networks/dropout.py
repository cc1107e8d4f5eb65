"""Dropout (Srivastava et al. 2014) that no layout, recomputation or interruption changes.

What is dropped depends on the training's seed, the number of the sample in the training and the place in the network
alone. No generator runs along with the training, so that there is no state of one to save or to restore.
"""

import hashlib
from collections.abc import Sequence

import attrs
import torch
from nanotron import distributed as dist

from llmrecipe.recipe import training


@attrs.frozen(kw_only=True, eq=False)
class Dropout:
    """The dropout of a network in training; where no gradient is wanted, nothing is dropped."""

    rates: training.Dropout
    """Shares to drop."""

    seed: int
    """The training's seed."""

    tp_pg: dist.ProcessGroup
    """The ranks that share the network's matrices."""

    is_sequence_parallel: bool
    """Whether each of those ranks holds only its part of the tokens between the matrices."""

    def of_tokens(self, states: torch.Tensor, rate: float, place: str, samples: Sequence[int]) -> torch.Tensor:
        """Drop a share of `[length, batch, width]` at this place; `samples` are the numbers of the batch's samples."""
        if rate == 0 or not torch.is_grad_enabled():
            return states
        length, ranks = states.shape[0], self.tp_pg.size() if self.is_sequence_parallel else 1
        first = dist.get_rank(self.tp_pg) * length if self.is_sequence_parallel else 0
        shape = (length * ranks, states.shape[2])
        dropped = [
            self._dropped(shape, rate, states.device, sample, place)[first : first + length] for sample in samples
        ]
        return states.masked_fill(torch.stack(dropped, dim=1), 0) / (1 - rate)

    def of_attention(self, weights: torch.Tensor, place: str, samples: Sequence[int]) -> torch.Tensor:
        """Drop from attention weights `[batch, heads, length, length]`, of which each rank has its own heads."""
        rate, heads = self.rates.attention, weights.shape[1]
        first = dist.get_rank(self.tp_pg) * heads
        dropped = torch.stack(
            [
                torch.stack(
                    [
                        self._dropped(weights.shape[2:], rate, weights.device, sample, f"{place}, head {head}")
                        for head in range(first, first + heads)
                    ]
                )
                for sample in samples
            ]
        )
        return weights.masked_fill(dropped, 0) / (1 - rate)

    def _dropped(
        self, shape: tuple[int, ...], rate: float, device: torch.device, sample: int, place: str
    ) -> torch.Tensor:
        key = hashlib.blake2b(f"{self.seed}, {sample}, {place}".encode(), digest_size=8).digest()
        generator = torch.Generator(device).manual_seed(int.from_bytes(key))
        return torch.empty(shape, dtype=torch.bool, device=device).bernoulli_(rate, generator=generator)
