"""What a model says of examples, of which each rank asks it for some."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from transformers import PreTrainedModel

from llmrecipe.engines.finetuning.tasks.job import Job
from llmrecipe.engines.finetuning.trainer import arguments_of
from llmrecipe.engines.tasks.work import Answers, Work


def said(job: Job, work: Work[Any], model: PreTrainedModel, items: Sequence[Any]) -> Answers:
    """What a model says of items, in the run's number format; on every rank the same, however many there are.

    Args:
        job: the run.
        work: its task.
        model: whole, on the CPU, where it is afterwards as well.
        items: what it reads; which of them are a batch is decided by them alone.
    """
    arguments, ranks = arguments_of(job), job.parallelism.data
    device, rank = arguments.device, arguments.process_index
    model.to(device)
    with torch.autocast(device.type, torch.bfloat16, enabled=job.training.precision == "bfloat16"):
        found = work.answers(model, items, lambda batches: batches[rank::ranks])
    model.to("cpu")
    return together(found, ranks)


def together(found: Answers, ranks: int) -> Answers:
    """What all ranks have found."""
    if ranks == 1:
        return found
    each: list[Any] = [None] * ranks
    dist.all_gather_object(each, found)
    return {place: answer for part in each for place, answer in part.items()}
