"""torch's own norms, where nanotron expects flash-attn's, whose kernels exist for GPUs only."""

import torch
from torch.nn import functional


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
