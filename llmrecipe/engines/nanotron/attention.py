"""torch's own attention, rotary positions and norms, where nanotron expects flash-attn's.

nanotron 0.4 is written around flash-attn's kernels, which exist for GPUs only. Its attention layer's forward pass is
replaced as a whole, because the copies that it makes to suit those kernels cost more than the rotation itself.
"""

from typing import Any

import torch
from torch.nn import functional


class RotaryEmbedding(torch.nn.Module):
    """Rotary positions (Su et al. 2021) that pair neighbouring channels of a head, as nanotron's weights have them."""

    def __init__(self, dim: int, base: float = 10_000.0, interleaved: bool = False) -> None:
        super().__init__()
        if not interleaved:
            raise ValueError("nanotron's weights pair neighbouring channels")
        self.dim = dim
        self.base = base
        self._table: torch.Tensor | None = None

    def forward(self, heads: torch.Tensor) -> torch.Tensor:
        """Rotate `[length, batch, heads, dim]` by its positions, in float32."""
        length = heads.shape[0]
        if self._table is None or self._table.shape[0] < length or self._table.device != heads.device:
            self._table = self._angles(length, heads.device)
        pairs = torch.view_as_complex(heads.float().unflatten(-1, (-1, 2)))
        return torch.view_as_real(pairs * self._table[:length]).flatten(-2).to(heads.dtype)

    def _angles(self, length: int, device: torch.device) -> torch.Tensor:
        exponents = torch.arange(0, self.dim, 2, dtype=torch.float32, device=device) / self.dim
        # As flash-attn and transformers round it: another form of the same power is off by 2e-5 in the logits.
        frequencies = 1.0 / (self.base**exponents)
        angles = torch.outer(torch.arange(length, dtype=torch.float32, device=device), frequencies)
        return torch.polar(torch.ones_like(angles), angles)[:, None, None, :]


def forward(layer: Any, hidden_states: torch.Tensor, sequence_mask: torch.Tensor) -> dict[str, torch.Tensor]:
    """The forward pass of nanotron's `CausalSelfAttention` in training.

    Args:
        layer: the attention layer.
        hidden_states: `[length, batch, hidden]`.
        sequence_mask: `[batch, length]`, handed on; every token of a training sequence counts.
    """
    query_heads, key_heads = layer.n_local_q_heads, layer.n_local_kv_heads
    heads = layer.qkv_proj(hidden_states).unflatten(-1, (-1, layer.d_qk))
    rotating, value = heads.split((query_heads + key_heads, key_heads), dim=2)
    query, key = layer.flash_rotary_embedding(rotating).split((query_heads, key_heads), dim=2)
    output = functional.scaled_dot_product_attention(
        *(x.permute(1, 2, 0, 3) for x in (query, key, value)), is_causal=True, enable_gqa=layer.is_gqa
    )
    return {"hidden_states": layer.o_proj(output.permute(2, 0, 1, 3).flatten(2)), "sequence_mask": sequence_mask}


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
