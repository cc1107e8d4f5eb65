"""The activation of a decoder's feed-forward layer."""

from typing import Any

import torch
from torch.nn import functional


class SwiGLU(torch.nn.Module):
    """Gate and up, `[…, 2 × width]`, to `silu(gate) × up`, `[…, width]` (Shazeer 2020)."""

    def forward(self, merged: torch.Tensor) -> torch.Tensor:
        """The product."""
        if torch.compiler.is_compiling():
            # The compiler writes it in one place by itself.
            gate, up = merged.chunk(2, dim=-1)
            return functional.silu(gate) * up
        return _SwiGLU.apply(merged)


class _SwiGLU(torch.autograd.Function):
    """As autograd has it, but for the gradient, which is written in one place instead of two that are then joined."""

    @staticmethod
    def forward(ctx: Any, merged: torch.Tensor) -> torch.Tensor:
        gate, up = merged.chunk(2, dim=-1)
        activated = functional.silu(gate)
        ctx.save_for_backward(merged, activated)
        return activated * up

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        merged, activated = ctx.saved_tensors
        gate, up = merged.chunk(2, dim=-1)
        result = torch.empty_like(merged)
        of_gate, of_up = result.chunk(2, dim=-1)
        torch.mul(gradient, activated, out=of_up)
        torch.ops.aten.silu_backward.grad_input(gradient * up, gate, grad_input=of_gate)
        return result
