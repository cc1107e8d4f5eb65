"""Matrix products of linear layers on a CPU by oneDNN, which comes with torch.

torch multiplies float32 matrices with MKL, which uses no AVX-512 on processors that aren't Intel's: oneDNN is twice as
fast there, and two thirds of a training step are these products.
"""

from typing import Any

import torch
from torch.nn import functional


def linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """`x Wᵀ + b` of `x` `[…, in]` and `weight` `[out, in]`, as `torch.nn.functional.linear` computes it."""
    if x.device.type == "cpu" and x.dtype == torch.float32 and torch.backends.mkldnn.is_available():
        return _Linear.apply(x, weight, bias)
    return functional.linear(x, weight, bias)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        ctx.save_for_backward(x, weight)
        return _product(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        for_x, for_weight, for_bias = ctx.needs_input_grad
        rows = gradient.flatten(0, -2)
        return (
            _product(gradient, weight.t()) if for_x else None,
            _weight_gradient(rows, x.flatten(0, -2)) if for_weight else None,
            rows.sum(0) if for_bias else None,
        )


def _weight_gradient(gradient: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """`gradientᵀ x` of `[rows, out]` and `[rows, in]`."""
    if gradient.shape[1] <= x.shape[1]:
        return _product(gradient.t(), x.t())
    # Two threads share a wide product better than a tall one, by up to a third.
    return _product(x.t(), gradient.t()).t().contiguous()


def _product(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    # What torch's own compiler calls for a linear layer with nothing after it; it takes transposed views as they are.
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
