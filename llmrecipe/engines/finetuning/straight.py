"""Quantized students, which learn through their own rounding.

Imported when it is needed: compressed-tensors and llmcompressor take seconds.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from compressed_tensors.quantization import QuantizationStatus
from compressed_tensors.quantization.lifecycle import forward
from compressed_tensors.utils import patch_attr
from llmcompressor.transformers.compression.compressed_tensors_utils import modify_save_pretrained
from torch import nn

_LEARNED = ("weight", "bias")


def round_again(student: nn.Module) -> None:
    """Let each quantized layer of a loaded model round its weights whenever it computes, and only those learn.

    A loaded layer holds weights that are rounded already. Rounded again, by scales that stay as they are, they stay the
    same; once they have learned they don't.
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

    with patch_attr(forward, "forward_quantize", through):
        yield
