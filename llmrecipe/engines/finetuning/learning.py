"""What of a model learns."""

import importlib
import os
from types import ModuleType
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from llmrecipe.errors import StageError

Zeros = list[tuple[torch.nn.Linear, torch.Tensor]]
"""Layers with where their weights are zero."""


def learning(student: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    """The parameters that learn, by name; those that are tied once."""
    scales = {id(layer.weight_scale) for layer in scaled_layers(student)}
    return {
        name: parameter
        for name, parameter in student.named_parameters()
        if parameter.requires_grad or id(parameter) in scales
    }


def scaled_layers(student: torch.nn.Module) -> list[torch.nn.Module]:
    """Quantized layers whose weights have scales that can take any value, and so learn; not those of blocks, of which
    the last may have fewer rows than the others."""

    def learns(module: Any) -> bool:
        scheme = getattr(module, "quantization_scheme", None)
        return (
            scheme is not None
            and getattr(getattr(module, "weight_scale", None), "dtype", None) == torch.float32
            and not hasattr(module, "weight_global_scale")
            and scheme.weights.strategy != "block"
        )

    return [module for module in student.modules() if learns(module)]


def is_quantized(model: PreTrainedModel) -> bool:
    """Whether some of its layers are quantized."""
    return hasattr(model.config, "quantization_config")


def straight() -> ModuleType:
    """What lets quantized students learn; it imports llmcompressor, which would say that it found no accelerator."""
    os.environ.setdefault("LLM_COMPRESSOR_LOG_LEVEL", "ERROR")
    return importlib.import_module("llmrecipe.engines.finetuning.straight")


def layers_of(model: PreTrainedModel) -> nn.ModuleList:
    """The list of a model's layers.

    Raises:
        StageError: it has none.
    """
    count = model.config.num_hidden_layers
    for module in model.modules():
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return module
    raise StageError(
        f"{type(model).__name__} has no list of its {count} layers, which adapters, hidden_states, layer_decay and "
        "zero_stage = 3 look for; leave them out"
    )


def zeros_of(student: torch.nn.Module) -> Zeros:
    """Where the weights of its linear layers are zero."""
    return [
        (module, module.weight.detach() == 0) for module in student.modules() if isinstance(module, torch.nn.Linear)
    ]


def refill(zeros: Zeros) -> None:
    """Make these weights zero again, whatever an update has made of them."""
    for layer, at in zeros:
        # No product, which would leave a zero with a sign.
        layer.weight.data.masked_fill_(at, 0)
