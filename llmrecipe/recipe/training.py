"""How long and how the model is trained."""

import math
from typing import Literal

import attrs

from llmrecipe.recipe.optimizer import Cosine, Optimizer, Schedule
from llmrecipe.recipe.quantity import Duration, Fraction, Steps
from llmrecipe.recipe.schema import at_least, define, greater_than


@define("training")
class Training:
    """One training run, independent of where it runs."""

    duration: Duration
    """Its length, as `Tokens(…)` or `Steps(…)`."""

    global_batch_size: int = attrs.field(validator=at_least(1))
    """Sequences that one optimizer step learns from, over all ranks."""

    optimizer: Optimizer
    """The update rule with its peak learning rate."""

    schedule: Schedule = Cosine()
    """The learning rate's course."""

    seed: int = attrs.field(default=42, validator=at_least(0))
    """Decides the initial weights and the order of the data."""

    clip_grad_norm: float | None = attrs.field(default=1.0, validator=greater_than(0))
    """Gradients with a larger global norm are scaled down to it; None leaves them alone."""

    precision: Literal["by_device", "float32", "bfloat16"] = "by_device"
    """Type of weights and activations; `by_device` is float32 on a CPU and bfloat16 (float32 accumulation) on a GPU."""

    validation_interval: int = attrs.field(default=100, validator=at_least(1))
    """Steps between two measurements of the loss on the held-out split; the last step is always measured."""

    validation_sequences: int = attrs.field(default=64, validator=at_least(1))
    """Held-out sequences a measurement reads (fewer, if the split is smaller)."""

    def num_steps(self, sequence_length: int) -> int:
        """Optimizer steps of the whole training."""
        if isinstance(self.duration, Steps):
            return self.duration.count
        return math.ceil(self.duration.count / (self.global_batch_size * sequence_length))

    def warmup_steps(self, sequence_length: int) -> int:
        """Optimizer steps of the warm-up."""
        warmup = self.schedule.warmup
        if isinstance(warmup, Fraction):
            return math.ceil(warmup.of_total * self.num_steps(sequence_length))
        return warmup.count
