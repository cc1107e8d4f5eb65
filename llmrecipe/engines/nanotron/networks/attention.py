"""Causal self-attention by torch's own kernels.

nanotron 0.4's is written around flash-attn's, which exist for GPUs only, and its heads always share the width of the
residual stream. torch has as fast kernels for GPUs and for CPUs, and they take the tensors as they are: the copies that
nanotron makes to suit flash-attn cost more than the rotation itself.
"""

from collections.abc import Callable, Iterator

import torch
from nanotron import distributed as dist
from nanotron.nn.layer_norm import TritonRMSNorm
from nanotron.parallel.tensor_parallel.distributed_differentiable_primitives import differentiable_identity
from nanotron.parallel.tensor_parallel.nn import (
    TensorParallelColumnLinear,
    TensorParallelLinearMode,
    TensorParallelRowLinear,
)
from torch import nn
from torch.nn import functional

from llmrecipe.engines.nanotron.networks.micro_batch import Reach
from llmrecipe.engines.nanotron.networks.rotary import RotaryEmbedding
from llmrecipe.engines.nanotron.networks.spans import spanned_attention
from llmrecipe.recipe.networks.decoder import Decoder


class CausalAttention(nn.Module):
    """The attention of a decoder's layer, of which each tensor-parallel rank has its own heads."""

    def __init__(
        self, network: Decoder, rotary: RotaryEmbedding, group: dist.ProcessGroup, mode: TensorParallelLinearMode
    ) -> None:
        super().__init__()
        size, heads, key_value_heads = network.head_size, network.num_attention_heads, network.num_key_value_heads
        self.head_size, self.rotary, self.group, self.mode = size, rotary, group, mode
        self.heads, self.key_value_heads = heads // group.size(), key_value_heads // group.size()
        rows = (heads * size, key_value_heads * size, key_value_heads * size)
        self.qkv_proj = TensorParallelColumnLinear(
            network.hidden_size,
            sum(rows),
            pg=group,
            mode=mode,
            bias=network.has_query_key_value_biases,
            contiguous_chunks=rows,
        )
        self.o_proj = TensorParallelRowLinear(heads * size, network.hidden_size, pg=group, mode=mode, bias=False)
        if network.has_query_key_norms:
            self.q_norm, self.k_norm = (TritonRMSNorm(size, eps=network.rms_norm_eps) for _ in range(2))

    def forward(
        self, states: torch.Tensor, reach: Reach, drop: Callable[[torch.Tensor], torch.Tensor] | None = None
    ) -> torch.Tensor:
        """`[length, batch, hidden]` to the same.

        Args:
            states: what it reads.
            reach: what each token reads.
            drop: applied to the attention weights `[batch, heads, length, length]`, which are made only for it: without
                it nothing is as large as the square of the length.
        """
        heads = self.qkv_proj(states).unflatten(-1, (-1, self.head_size))
        rotating, value = heads.split((self.heads + self.key_value_heads, self.key_value_heads), dim=2)
        query, key = self._rotated(rotating, reach.positions)
        if drop is None and reach.spans is not None:
            # Documents end to end.
            flat = (x.transpose(0, 1).flatten(0, 1) for x in (query, key, value))
            output = spanned_attention(*flat, reach.spans).unflatten(0, (-1, len(query))).transpose(0, 1)
            return self.o_proj(output.flatten(2))
        query, key, value = (x.permute(1, 2, 0, 3) for x in (query, key, value))
        if drop is not None:
            output = attention_with_weights(query, key, value, drop, reach.attended(query.shape[2], query.device))
        else:
            output = _causal(query, key, value)
        return self.o_proj(output.permute(2, 0, 1, 3).flatten(2))

    def _rotated(self, heads: torch.Tensor, positions: torch.Tensor | None) -> tuple[torch.Tensor, ...]:
        """Queries and keys of `[length, batch, heads, head size]`, of which the queries come first."""
        shares = (self.heads, self.key_value_heads)
        if not hasattr(self, "q_norm"):
            return self.rotary(heads, positions).split(shares, dim=2)
        pairs = zip(heads.split(shares, dim=2), (self.q_norm, self.k_norm), strict=True)
        return tuple(self.rotary(self._normalised(part, norm), positions) for part, norm in pairs)

    def _normalised(self, heads: torch.Tensor, norm: TritonRMSNorm) -> torch.Tensor:
        weight = norm.weight
        # Each rank has heads of its own and so a part of this gradient. nanotron adds up the parts in the one mode, and
        # takes them for the same in the other.
        if self.mode is TensorParallelLinearMode.ALL_REDUCE:
            weight = differentiable_identity(weight, group=self.group)
        return functional.rms_norm(heads, heads.shape[-1:], weight, norm.eps)


def _causal(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Attention of `[batch, heads, length, dim]` to all that comes before, grouped queries included."""
    kept, is_grouped = query.dtype, query.shape[1] != key.shape[1]
    if query.device.type == "cpu":
        # In bfloat16 the kernel for CPUs takes a quarter longer than in float32, copies included.
        query, key, value = query.float(), key.float(), value.float()
    elif kept == torch.float32 and is_grouped:
        # Of torch's kernels for GPUs, those for float32 that never hold all weights know no grouped queries.
        key, value = _ungrouped(query, key, value)
        is_grouped = False
    output = functional.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=is_grouped)
    return output.to(kept)


def attention_with_weights(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    drop: Callable[[torch.Tensor], torch.Tensor],
    attended: torch.Tensor,
) -> torch.Tensor:
    """Attention of `[batch, heads, length, dim]`, grouped queries included, with its weights in sight."""
    key, value = _ungrouped(query, key, value)
    scores = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
    weights = scores.float().masked_fill(~attended, float("-inf")).softmax(-1).to(query.dtype)
    return drop(weights) @ value


def _ungrouped(query: torch.Tensor, *grouped: torch.Tensor) -> Iterator[torch.Tensor]:
    """Keys and values `[batch, heads, length, dim]`, once for each of their query heads."""
    return (x.repeat_interleave(query.shape[1] // x.shape[1], dim=1) for x in grouped)
