"""Dropout (Srivastava et al. 2014) that no layout, recomputation or interruption changes.

What is dropped depends on the seed of the run, the number of the sample and the place in the network alone. No
generator runs along, so there is no state of one to save or to restore.
"""

import hashlib
from collections.abc import Sequence

import attrs
import torch
from nanotron import distributed as dist
from nanotron.parallel.tensor_parallel.nn import TensorParallelLinearMode

from llmrecipe.engines.models.architecture import RunOptions
from llmrecipe.engines.nanotron.networks.micro_batch import MicroBatchInFlight
from llmrecipe.recipe.training import Dropout


@attrs.frozen(kw_only=True, eq=False)
class Dropper:
    """What drops in the network of a run; where no gradient is wanted, nothing is dropped."""

    rates: Dropout
    """Shares to drop."""

    seed: int
    """The seed of the run."""

    tensor_group: dist.ProcessGroup
    """The ranks that share the network's matrices."""

    is_sequence_parallel: bool
    """Whether each of those ranks holds only its part of the tokens between the matrices."""

    @classmethod
    def of(
        cls, options: RunOptions, tensor_group: dist.ProcessGroup, tensor_parallel_mode: TensorParallelLinearMode
    ) -> "Dropper":
        """The dropout that a run asks for."""
        return cls(
            rates=options.dropout,
            seed=options.seed,
            tensor_group=tensor_group,
            is_sequence_parallel=tensor_parallel_mode is TensorParallelLinearMode.REDUCE_SCATTER,
        )

    def samples(self, batch: MicroBatchInFlight) -> Sequence[int]:
        """The numbers of the samples, for layers that drop; for others none, the same at every step."""
        return batch.samples if self.rates.residual or self.rates.attention else ()

    def of_tokens(self, states: torch.Tensor, rate: float, place: str, samples: Sequence[int]) -> torch.Tensor:
        """Drop a share of `[length, batch, width]` at this place; `samples` are the numbers of the batch's samples."""
        if rate == 0 or not torch.is_grad_enabled():
            return states
        length, tensor_parallel = states.shape[0], self.tensor_group.size() if self.is_sequence_parallel else 1
        first = dist.get_rank(self.tensor_group) * length if self.is_sequence_parallel else 0
        shape = (length * tensor_parallel, states.shape[2])
        dropped = [
            self._dropped(shape, rate, states.device, sample, place)[first : first + length] for sample in samples
        ]
        return states.masked_fill(torch.stack(dropped, dim=1), 0) / (1 - rate)

    def of_attention(self, attention: torch.Tensor, place: str, samples: Sequence[int]) -> torch.Tensor:
        """Drop from attention weights `[batch, heads, length, length]`, of which each rank has its own heads."""
        rate, heads = self.rates.attention, attention.shape[1]
        first = dist.get_rank(self.tensor_group) * heads
        dropped = torch.stack(
            [
                torch.stack(
                    [
                        self._dropped(attention.shape[2:], rate, attention.device, sample, f"{place}, head {head}")
                        for head in range(first, first + heads)
                    ]
                )
                for sample in samples
            ]
        )
        return attention.masked_fill(dropped, 0) / (1 - rate)

    def _dropped(
        self, shape: tuple[int, ...], rate: float, device: torch.device, sample: int, place: str
    ) -> torch.Tensor:
        key = hashlib.blake2b(f"{self.seed}, {sample}, {place}".encode(), digest_size=8).digest()
        generator = torch.Generator(device).manual_seed(int.from_bytes(key))
        return torch.empty(shape, dtype=torch.bool, device=device).bernoulli_(rate, generator=generator)
