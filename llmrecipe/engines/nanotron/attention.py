"""torch's own attention, rotary positions and norms behind the signatures of flash-attn that nanotron calls."""

import torch
from torch.nn import functional


def flash_attn_varlen_func(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    cu_seqlens_q: torch.Tensor,
    cu_seqlens_k: torch.Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    return_attn_probs: bool = False,
) -> torch.Tensor:
    """Attention over sequences of equal length, packed end to end: [batch × length, heads, width] to the same."""
    batch = cu_seqlens_q.numel() - 1
    query, key, value = (x.view(batch, -1, *x.shape[-2:]).transpose(1, 2) for x in (q, k, v))
    output = functional.scaled_dot_product_attention(
        query,
        key,
        value,
        dropout_p=dropout_p,
        is_causal=causal,
        scale=softmax_scale,
        enable_gqa=q.shape[1] != k.shape[1],
    )
    return output.transpose(1, 2).reshape(q.shape)


class RotaryEmbedding(torch.nn.Module):
    """Rotary positions (Su et al. 2021) on queries and on the keys of a key-value pair.

    Neighbouring channels form a pair when `interleaved`, halves of a head otherwise.
    """

    def __init__(self, dim: int, base: float = 10_000.0, interleaved: bool = False) -> None:
        super().__init__()
        self.dim = dim
        self.base = base
        self.interleaved = interleaved
        self._table: torch.Tensor | None = None

    def forward(self, q: torch.Tensor, kv: torch.Tensor, **_) -> tuple[torch.Tensor, torch.Tensor]:
        """[batch, length, heads, dim] and [batch, length, 2, heads, dim] to the same shapes."""
        table = self._angles(q.shape[1], q.device)
        key, value = kv.unbind(2)
        return self._rotate(q, table), torch.stack((self._rotate(key, table), value), 2)

    def _angles(self, length: int, device: torch.device) -> torch.Tensor:
        table = self._table
        if table is None or table.shape[0] < length or table.device != device:
            exponents = torch.arange(0, self.dim, 2, dtype=torch.float32, device=device) / self.dim
            # As flash-attn and transformers round it: another form of the same power is off by 2e-5 in the logits.
            frequencies = 1.0 / (self.base**exponents)
            angles = torch.outer(torch.arange(length, dtype=torch.float32, device=device), frequencies)
            self._table = table = torch.polar(torch.ones_like(angles), angles)
        return table[:length, None, :]

    def _rotate(self, x: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
        if not self.interleaved:
            first, second = x.float().chunk(2, -1)
            pairs = torch.complex(first, second) * table
            return torch.cat((pairs.real, pairs.imag), -1).to(x.dtype)
        pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2))) * table
        return torch.view_as_real(pairs).flatten(-2).to(x.dtype)


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
