"""The recipe's optimizer and learning-rate schedule in place of nanotron's own, which knows AdamW alone."""

import math
from typing import Any

import torch
from nanotron import helpers
from torch.optim.lr_scheduler import LambdaLR

from llmrecipe.recipe.optimizer import AdamW, Constant, Linear, Optimizer
from llmrecipe.recipe.training import Training

_build_with_adamw = helpers.init_optimizer_and_grad_accumulator


def init_optimizer_and_grad_accumulator(optimizer: Optimizer, **arguments: Any) -> tuple[Any, Any]:
    """nanotron's builder with the recipe's optimizer; norms are left out of weight decay."""

    def build(groups: list[dict[str, Any]], **_: Any) -> torch.optim.Optimizer:
        split = [
            {**group, "params": [p for p in group["params"] if decays(p) == decay], "weight_decay": weight_decay}
            for group in groups
            for decay, weight_decay in ((True, optimizer.weight_decay), (False, 0.0))
        ]
        if isinstance(optimizer, AdamW):
            return torch.optim.AdamW(
                split, lr=optimizer.learning_rate, betas=(optimizer.beta1, optimizer.beta2), eps=optimizer.eps
            )
        return torch.optim.SGD(
            split, lr=optimizer.learning_rate, momentum=optimizer.momentum, nesterov=optimizer.nesterov
        )

    def decays(parameter: torch.Tensor) -> bool:
        # ZeRO hands out flat pieces; `orig_data` is the weight that a piece was cut from.
        return getattr(parameter, "orig_data", parameter).dim() > 1

    theirs = helpers.AdamW
    helpers.AdamW = build
    try:
        return _build_with_adamw(**arguments)
    finally:
        helpers.AdamW = theirs


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
