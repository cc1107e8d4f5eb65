"""Students as they are at the start, and their teachers."""

from pathlib import Path
from typing import Any, cast

import torch
from transformers import PreTrainedModel

from llmrecipe.engines.finetuning.distillation.job import Job
from llmrecipe.engines.finetuning.learning import is_quantized, straight
from llmrecipe.engines.models import folders
from llmrecipe.engines.models.architecture import architecture_of


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
