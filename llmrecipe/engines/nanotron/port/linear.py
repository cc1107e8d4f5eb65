"""Matrix products of linear layers in float32 on a CPU, by the one of torch's two libraries that is faster there.

They are two thirds of a training step. MKL, which torch takes by itself, uses no AVX-512 on processors that aren't
Intel's, and oneDNN does: it is faster by a tenth to more than two times, depending on how wide the processor's units
are. On Intel's processors, and without AVX-512, MKL is faster, a weight's gradient above all (`benchmarks/README.md`
has numbers).
"""

import platform
from pathlib import Path
from typing import Any, Literal

import torch
from torch.nn import functional

_CPUINFO = Path("/proc/cpuinfo")

Library = Literal["oneDNN", "MKL"]
"""What multiplies. Each gives the same bits every time on one kind of processor, and the two differ by rounding."""


def fastest() -> Library:
    """The library that is faster on this processor: oneDNN where it uses AVX-512 and MKL does not, and else MKL.

    Not measured, since a clock would not choose alike twice. `ATEN_CPU_CAPABILITY` and `ONEDNN_MAX_CPU_ISA`, which keep
    torch and oneDNN from AVX-512, are respected.
    """
    if _is_intel() or not torch.backends.mkldnn.is_available():
        return "MKL"
    # Of the two, the second is what oneDNN itself needs AVX-512 for.
    is_used = torch.backends.cpu.get_cpu_capability() == "AVX512" and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return "oneDNN" if is_used else "MKL"


def _is_intel() -> bool:
    return "GenuineIntel" in (_CPUINFO.read_text() if _CPUINFO.exists() else platform.processor())


_used: list[Library] = [fastest()]


def use(library: Library) -> None:
    """Let `library` multiply in this process from now on."""
    _used[0] = library


def linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """`x Wᵀ + b` of `x` `[…, in]` and `weight` `[out, in]`, as `torch.nn.functional.linear` computes it."""
    if _used[0] == "oneDNN" and x.device.type == "cpu" and x.dtype == torch.float32:
        return _OneDNN.apply(x, weight, bias)
    return functional.linear(x, weight, bias)


def add_weight_gradient(total: torch.Tensor | None, gradient: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """The transposed gradient of a weight, `[in, out]`, with a part of its rows more: `total + xᵀ gradient` in float32.

    Args:
        total: what it was, overwritten; None for zero.
        gradient: `[rows, out]`.
        x: `[rows, in]`.
    """
    if _used[0] == "oneDNN" and x.device.type == "cpu" and x.dtype == torch.float32:
        product = _product(x.t(), gradient.t())
    elif total is not None and x.dtype == torch.float32:
        return total.addmm_(x.t(), gradient)
    else:
        product = x.t() @ gradient
    return product.float() if total is None else total.add_(product)


class _OneDNN(torch.autograd.Function):
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
    # By itself the compiler takes oneDNN only for weights that don't change.
    return (_opaque if torch.compiler.is_compiling() else _by_onednn)(x, weight, bias)


def _by_onednn(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    # What torch's own compiler calls for a linear layer with nothing after it; it takes transposed views as they are.
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


@torch.library.custom_op("llmrecipe::linear", mutates_args=())
def _opaque(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    return _by_onednn(x, weight, bias)


@_opaque.register_fake
def _(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    return x.new_empty(*x.shape[:-1], weight.shape[0])
