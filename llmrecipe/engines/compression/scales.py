"""Scales of groups of weights, in 16 bits whatever the model's other numbers are. Imported as `modifiers` is.

bfloat16 has the range of float32, and rounding a scale by at most 2⁻⁹ of it is nothing beside rounding weights to a few
bits, which know the rounded scale.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from compressed_tensors.compressors.base import BaseCompressor
from compressed_tensors.offload import disable_onloading
from compressed_tensors.quantization import QuantizationStrategy, QuantizationType
from compressed_tensors.utils import patch_attr
from llmcompressor.observers import base, imatrix, mse_quant
from torch import nn

_SCALE = "weight_scale"


@contextmanager
def rounded() -> Iterator[None]:
    """Meanwhile, observers give groups of weights scales that bfloat16 has."""
    calculate = base.calculate_qparams

    def round_too(min_vals: Any, max_vals: Any, quantization_args: Any, *others: Any, **options: Any) -> Any:
        scales, zero_points = calculate(min_vals, max_vals, quantization_args, *others, **options)
        return _rounded(scales) if _is_grouped(quantization_args) else scales, zero_points

    with ExitStack() as patches:
        for module in (base, imatrix, mse_quant):
            patches.enter_context(patch_attr(module, "calculate_qparams", round_too))
        yield


@contextmanager
def narrow() -> Iterator[None]:
    """Meanwhile, models are saved with scales in bfloat16 where it has them, and so without loss."""
    # Imported by its name, it would be another module: one of its formats takes the name.
    compressors = sys.modules[BaseCompressor.__module__]
    replace: Callable[..., None] = compressors.replace_direct_state_dict

    def replace_narrowed(module: nn.Module, tensors: dict[str, torch.Tensor]) -> None:
        if _SCALE in tensors and is_narrow(module):
            tensors = tensors | {_SCALE: tensors[_SCALE].bfloat16()}
        replace(module, tensors)

    with patch_attr(compressors, "replace_direct_state_dict", replace_narrowed):
        yield


def is_narrow(layer: Any) -> bool:
    """Whether a quantized layer has scales of groups of weights, and bfloat16 has them all."""
    scale: torch.Tensor | None = getattr(layer, _SCALE, None)
    weights = layer.quantization_scheme.weights
    return scale is not None and weights is not None and _is_grouped(weights) and torch.equal(scale, _rounded(scale))


def make_narrow(model: nn.Module) -> None:
    """Round the scales of all groups of weights to what bfloat16 has."""
    # Else a scale that is kept elsewhere than its module computes is a copy.
    with disable_onloading():
        for module in model.modules():
            form = getattr(getattr(module, "quantization_scheme", None), "weights", None)
            if form is not None and _is_grouped(form):
                scale: Any = module.weight_scale
                scale.data = _rounded(scale.data)


def _rounded(scale: torch.Tensor) -> torch.Tensor:
    return scale.bfloat16().to(scale.dtype) if scale.dtype == torch.float32 else scale


def _is_grouped(form: Any) -> bool:
    return form.type == QuantizationType.INT and form.strategy == QuantizationStrategy.GROUP
