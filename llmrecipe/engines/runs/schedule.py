"""The learning rate of every step."""

import math

import torch
from torch.optim.lr_scheduler import LambdaLR

from llmrecipe.errors import StageError
from llmrecipe.recipe.schedule import Constant, Cosine, InverseSquareRoot, Linear, WarmupStableDecay
from llmrecipe.recipe.training import Training


def learning_rate_scheduler(training: Training, sequence_length: int, optimizer: torch.optim.Optimizer) -> LambdaLR:
    """The scheduler that nanotron steps after every optimizer step."""
    return LambdaLR(optimizer, lambda step: learning_rate_factor(training, sequence_length, step))


def learning_rate_factor(training: Training, sequence_length: int, step: int) -> float:
    """Share of the peak learning rate that the optimizer step number `step`, counted from 0, uses.

    The warm-up's first step already learns, at peak / warm-up steps; its last step is at the peak, and so is the first
    step of a run without one. The last step of the run is at the schedule's final share, if it has one.
    """
    warmup = training.warmup_steps(sequence_length)
    if step < warmup:
        return (step + 1) / warmup
    peak, last = max(warmup - 1, 0), training.num_steps(sequence_length) - 1
    match training.schedule:
        case Constant():
            return 1.0
        case Linear(final=final):
            return _between(final.of_total, 1 - _progress(step, peak, last))
        case Cosine(final=final):
            return _between(final.of_total, (1 + math.cos(math.pi * _progress(step, peak, last))) / 2)
        case InverseSquareRoot():
            return math.sqrt((peak + 1) / (step + 1))
        case WarmupStableDecay(final=final):
            start = steps_before_decay(training, sequence_length) - 1
            return _between(final.of_total, 1 - _progress(step, start, last))
        case other:
            raise StageError(f"training.schedule: {type(other).__name__} is none that this engine can follow")


def steps_before_decay(training: Training, sequence_length: int) -> int:
    """Steps of a run by `WarmupStableDecay` before the learning rate falls; all of those of another schedule."""
    steps = training.num_steps(sequence_length)
    if not isinstance(training.schedule, WarmupStableDecay):
        return steps
    decay = training.phase_steps(training.schedule.decay, sequence_length)
    return max(steps - decay, training.warmup_steps(sequence_length), 1)


def steps_alike(one: Training, other: Training, sequence_length: int) -> int:
    """How many first steps of two runs have the same learning rates."""
    shorter = min(one.num_steps(sequence_length), other.num_steps(sequence_length))

    def differs(step: int) -> bool:
        return learning_rate_factor(one, sequence_length, step) != learning_rate_factor(other, sequence_length, step)

    return next(filter(differs, range(shorter)), shorter)


def _progress(step: int, start: int, end: int) -> float:
    """How far `step` is on the way from `start` (0) to `end` (1); 1 if they are the same."""
    return min(max((step - start) / (end - start), 0.0), 1.0) if end > start else 1.0


def _between(final: float, height: float) -> float:
    """From the final share (height 0) to the peak (height 1)."""
    return final + (1 - final) * height
