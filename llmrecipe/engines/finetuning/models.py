"""Students as they are at the start, and their teachers."""

import importlib
import os
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import torch
from transformers import PreTrainedModel

from llmrecipe.engines.finetuning.job import Job
from llmrecipe.engines.models import folders
from llmrecipe.engines.models.architecture import architecture_of

Zeros = list[tuple[torch.nn.Linear, torch.Tensor]]
"""Layers with where their weights are zero."""


def first_student(job: Job) -> PreTrainedModel:
    """The student at the start of its run, in float32, on the CPU; of its parameters, those that learn have gradients.

    Raises:
        StageError: it can't be loaded.
    """
    if job.student is None:
        architecture = architecture_of(job.network)
        config = architecture.transformers_config(job.network, job.vocab_size, job.end_of_text_id)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(job.training.seed)
            drawn: Any = architecture.transformers_class(config)
        return cast(PreTrainedModel, drawn.eval())
    student = _in_float32(Path(job.student))
    for parameter in student.parameters():
        # What is read from a file is that file's memory, which isn't to be written to.
        parameter.data = parameter.data.clone()
        parameter.requires_grad_(parameter.is_floating_point())
    if is_quantized(student):
        straight().round_again(student)
    return student


def is_quantized(model: PreTrainedModel) -> bool:
    """Whether some of its layers are quantized."""
    return hasattr(model.config, "quantization_config")


def straight() -> ModuleType:
    """What lets quantized students learn; it imports llmcompressor, which would say that it found no accelerator."""
    os.environ.setdefault("LLM_COMPRESSOR_LOG_LEVEL", "ERROR")
    return importlib.import_module("llmrecipe.engines.finetuning.straight")


def load_teacher(directory: Path) -> PreTrainedModel:
    """The teacher, in float32, without gradients.

    Raises:
        StageError: it can't be loaded.
    """
    teacher: Any = _in_float32(directory).requires_grad_(False)
    return cast(PreTrainedModel, teacher)


def _in_float32(directory: Path) -> PreTrainedModel:
    model = folders.load_model(directory)
    # Not `float`, which transformers refuses of a quantized model.
    for parameter in model.parameters():
        # Scales of some formats are numbers of 8 bits, whatever the rest is.
        if parameter.dtype in (torch.bfloat16, torch.float16):
            parameter.data = parameter.data.float()
    return model


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


def zeros_of(student: torch.nn.Module) -> Zeros:
    """Where the weights of its linear layers are zero."""
    return [
        (module, module.weight.detach() == 0) for module in student.modules() if isinstance(module, torch.nn.Linear)
    ]
