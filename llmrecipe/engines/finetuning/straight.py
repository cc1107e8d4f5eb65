"""Quantized students, which learn through their own rounding.

Imported when it is needed: compressed-tensors and llmcompressor take seconds.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from compressed_tensors.modeling import kvcache
from compressed_tensors.quantization import QuantizationStatus
from compressed_tensors.quantization.lifecycle import forward
from compressed_tensors.quantization.utils import calculate_range
from compressed_tensors.utils import patch_attr
from llmcompressor.transformers.compression.compressed_tensors_utils import modify_save_pretrained
from torch import nn

_LEARNED = ("weight", "bias")


def round_again(student: nn.Module) -> None:
    """Let each quantized layer of a loaded model round its weights whenever it computes, and learn so; but zero points.

    A loaded layer holds weights that are rounded already. Rounded again by the same scales they stay the same; once
    either has learned they don't.
    """
    for module in _quantized(student):
        module.quantization_status = QuantizationStatus.FROZEN
        for name, parameter in module.named_parameters(recurse=False):
            parameter.requires_grad_(name in _LEARNED)


def compress_when_saved(student: nn.Module) -> None:
    """Let `save_pretrained` pack the rounded weights, as it does after llmcompressor has quantized a model."""
    modify_save_pretrained(student)


def _quantized(student: nn.Module) -> Iterator[nn.Module]:
    return (module for module in student.modules() if getattr(module, "quantization_scheme", None) is not None)


def largest_step(layer: Any) -> float:
    """How many times its scale the largest rounded weight of a layer is at most."""
    _, high = calculate_range(layer.quantization_scheme.weights, layer.weight.device)
    return float(high)


@torch.no_grad()
def pass_to_scales(layers: Iterable[Any]) -> None:
    """Give the scales of weights their gradients, from those of the weights, which clipped weights then lose.

    A weight w with the scale s and the zero point z counts as s (q − z), where q is w / s + z, rounded and clipped. By
    the straight-through rule that changes with s by q − z − w / s, or where it is clipped by q − z alone, and with w by
    1, or 0 (Esser et al. 2020, "Learned Step Size Quantization"). The weight's gradient is what the loss makes of it.
    """
    for layer in layers:
        weight, scale, form = layer.weight, layer.weight_scale, layer.quantization_scheme.weights
        spread = _spread(scale, weight.shape)
        zero_point = getattr(layer, "weight_zero_point", None)
        shift = 0 if zero_point is None else _spread(zero_point, weight.shape).float()
        relative = weight / spread
        low, high = calculate_range(form, weight.device)
        is_clipped = (relative + shift < low) | (relative + shift > high)
        rounded = forward.forward_quantize(layer, weight.data, "weight", form)
        change = rounded / spread - relative.masked_fill(is_clipped, 0)
        scale.grad = _gathered(weight.grad * change, scale)
        weight.grad.masked_fill_(is_clipped, 0)


def _spread(of_groups: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """What each group of weights has, for each weight: `[rows, columns]`."""
    rows, columns = of_groups.view(-1, 1).shape if of_groups.dim() < 2 else of_groups.shape
    each = of_groups.reshape(rows, columns)
    return each.repeat_interleave(shape[0] // rows, 0).repeat_interleave(shape[1] // columns, 1)


def _gathered(of_weights: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """The sum over each group of weights, in the shape of their scales."""
    rows, columns = scale.view(-1, 1).shape if scale.dim() < 2 else scale.shape
    parts = of_weights.unflatten(1, (columns, -1)).unflatten(0, (rows, -1))
    return parts.sum((1, 3)).view_as(scale)


class _Straight(torch.autograd.Function):
    """Forward the rounded value as it is, backward the gradient as it is (Bengio et al. 2013)."""

    @staticmethod
    def forward(_: Any, value: torch.Tensor, rounded: torch.Tensor) -> torch.Tensor:
        return rounded

    @staticmethod
    def backward(_: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        return gradients[0], None


@contextmanager
def straight_through() -> Iterator[None]:
    """Meanwhile, gradients pass the rounding of activations, where compressed-tensors ends them without a word.

    Those of weights pass it anyway: a layer computes with rounded numbers in its weight's place.
    """
    rounded: Callable[..., torch.Tensor] = forward.forward_quantize

    def through(module: nn.Module, value: torch.Tensor, *what: Any) -> torch.Tensor:
        found = rounded(module, value, *what)
        passed: torch.Tensor = _Straight.apply(value, found) if value.requires_grad else found
        return passed

    with (
        patch_attr(forward, "forward_quantize", through),
        # Keys and values are rounded by a name of its own.
        patch_attr(kvcache, "forward_quantize", through),
    ):
        yield
