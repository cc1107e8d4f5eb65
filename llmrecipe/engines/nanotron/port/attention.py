"""torch's own attention, rotary positions and norms, where nanotron expects flash-attn's.

nanotron 0.4 is written around flash-attn's kernels, which exist for GPUs only. torch has as fast ones for GPUs and for
CPUs, and they take the tensors as they are: the copies that nanotron makes to suit flash-attn cost more than the
rotation itself.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.nn import functional


class RotaryEmbedding(torch.nn.Module):
    """Rotary positions (Su et al. 2021) that pair neighbouring channels of a head, as nanotron's weights have them."""

    def __init__(
        self,
        dim: int,
        base: float = 10_000.0,
        interleaved: bool = False,
        stretch: Callable[[torch.Tensor], torch.Tensor] | None = None,
    ) -> None:
        super().__init__()
        if not interleaved:
            raise ValueError("nanotron's weights pair neighbouring channels")
        self.dim = dim
        self.base = base
        self.stretch = stretch
        self._table: torch.Tensor | None = None

    def forward(self, heads: torch.Tensor, positions: torch.Tensor | None = None) -> torch.Tensor:
        """Rotate `[length, batch, heads, dim]` by its positions, in float32.

        `positions` are `int64[batch, length]`, each below `length`; None counts from the beginning of the sequences.
        """
        length = heads.shape[0]
        if self._table is None or self._table.shape[0] < length or self._table.device != heads.device:
            self._table = self._angles(length, heads.device)
        pairs = torch.view_as_complex(heads.float().unflatten(-1, (-1, 2)))
        angles = self._table[:length] if positions is None else self._table[positions.t(), 0]
        return torch.view_as_real(pairs * angles).flatten(-2).to(heads.dtype)

    def _angles(self, length: int, device: torch.device) -> torch.Tensor:
        exponents = torch.arange(0, self.dim, 2, dtype=torch.float32, device=device) / self.dim
        # As flash-attn and transformers round it: another form of the same power is off by 2e-5 in the logits.
        frequencies = 1.0 / (self.base**exponents)
        if self.stretch is not None:
            frequencies = self.stretch(frequencies)
        angles = torch.outer(torch.arange(length, dtype=torch.float32, device=device), frequencies)
        return torch.polar(torch.ones_like(angles), angles)[:, None, None, :]


def causal_self_attention(
    layer: Any,
    hidden_states: torch.Tensor,
    drop: Callable[[torch.Tensor], torch.Tensor] | None = None,
    positions: torch.Tensor | None = None,
    attended: torch.Tensor | None = None,
) -> torch.Tensor:
    """The forward pass of nanotron's `CausalSelfAttention` in training, `[length, batch, hidden]` to the same.

    Args:
        layer: the attention layer; if its `normalise` is not None, queries and keys go through that.
        hidden_states: what it reads; every token of a training sequence counts.
        drop: applied to the attention weights `[batch, heads, length, length]`, which are made only for it: without
            it torch's kernel never holds them all.
        positions: `int64[batch, length]`; None counts from the beginning of the sequences.
        attended: whether a token (third dimension) reads another (fourth), `bool[batch or 1, 1, length, length]`; None
            lets it read all that aren't later.
    """
    query_heads, key_heads = layer.n_local_q_heads, layer.n_local_kv_heads
    heads = layer.qkv_proj(hidden_states).unflatten(-1, (-1, layer.d_qk))
    rotating, value = heads.split((query_heads + key_heads, key_heads), dim=2)
    if layer.normalise is not None:
        rotating = torch.cat(layer.normalise(*rotating.split((query_heads, key_heads), dim=2)), dim=2)
    query, key = layer.flash_rotary_embedding(rotating, positions).split((query_heads, key_heads), dim=2)
    query, key, value = (x.permute(1, 2, 0, 3) for x in (query, key, value))
    if drop is not None:
        output = _attention_with_weights(query, key, value, drop, attended)
    elif attended is not None:
        # Of torch's kernels for GPUs, the one that takes a mask knows no grouped queries.
        key, value = _ungrouped(query, key, value)
        output = functional.scaled_dot_product_attention(query, key, value, attended)
    else:
        output = functional.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=layer.is_gqa)
    return layer.o_proj(output.permute(2, 0, 1, 3).flatten(2))


def _attention_with_weights(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    drop: Callable[[torch.Tensor], torch.Tensor],
    attended: torch.Tensor | None = None,
) -> torch.Tensor:
    """Causal attention of `[batch, heads, length, dim]`, grouped queries included, with its weights in sight."""
    key, value = _ungrouped(query, key, value)
    scores = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
    if attended is None:
        attended = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    weights = scores.float().masked_fill(~attended, float("-inf")).softmax(-1).to(query.dtype)
    return drop(weights) @ value


def _ungrouped(query: torch.Tensor, *grouped: torch.Tensor) -> Iterator[torch.Tensor]:
    """Keys and values `[batch, heads, length, dim]`, once for each of their query heads."""
    return (x.repeat_interleave(query.shape[1] // x.shape[1], dim=1) for x in grouped)


def layer_norm_fn(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    residual: torch.Tensor | None = None,
    eps: float = 1e-6,
    dropout_p: float = 0.0,
    prenorm: bool = False,
    residual_in_fp32: bool = False,
    is_rms_norm: bool = False,
    return_dropout_mask: bool = False,
) -> torch.Tensor:
    """LayerNorm or RMSNorm over the last dimension; nanotron 0.4 never asks for more."""
    if is_rms_norm:
        return functional.rms_norm(x, x.shape[-1:], weight, eps)
    return functional.layer_norm(x, x.shape[-1:], weight, bias, eps)
