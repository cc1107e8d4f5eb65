"""The learning rate of every step."""

import math

import torch
from torch.optim.lr_scheduler import LambdaLR

from llmrecipe.recipe.optimizer import Constant, Linear
from llmrecipe.recipe.training import Training


def learning_rate_scheduler(training: Training, sequence_length: int, optimizer: torch.optim.Optimizer) -> LambdaLR:
    """The scheduler that nanotron steps after every optimizer step."""
    return LambdaLR(optimizer, lambda step: learning_rate_factor(training, sequence_length, step))


def learning_rate_factor(training: Training, sequence_length: int, step: int) -> float:
    """Share of the peak learning rate that the optimizer step number `step`, counted from 0, uses.

    The warm-up's first step already learns, at peak / warm-up steps; its last step is at the peak, and the last step
    of the training at the schedule's final share.
    """
    warmup = training.warmup_steps(sequence_length)
    if step < warmup:
        return (step + 1) / warmup
    schedule = training.schedule
    if isinstance(schedule, Constant):
        return 1.0
    first, last = max(warmup - 1, 0), training.num_steps(sequence_length) - 1
    progress = min((step - first) / (last - first), 1.0) if last > first else 1.0
    remaining = 1 - progress if isinstance(schedule, Linear) else (1 + math.cos(math.pi * progress)) / 2
    final = schedule.final.of_total
    return final + (1 - final) * remaining
