"""How a pretrained model learns a task."""

import math
from typing import Literal

import attrs

from llmrecipe.recipe.evolve import evolve
from llmrecipe.recipe.kinds import Adapter, Optimizer, Schedule
from llmrecipe.recipe.optimizer import AdamW
from llmrecipe.recipe.quantity import Fraction, Steps
from llmrecipe.recipe.schedule import Linear
from llmrecipe.recipe.schema import Word, define
from llmrecipe.recipe.training import Training
from llmrecipe.recipe.validators import at_least, below, between, greater_than


@define("fine_tuning")
class FineTuning(Word):
    """One fine-tuning, independent of where it runs."""

    epochs: float = attrs.field(default=3.0, validator=greater_than(0, 10**6))
    """How often each example is read."""

    global_batch_size: int = attrs.field(default=32, validator=between(1, 10**8))
    """Examples that one optimizer step learns from, over all ranks."""

    optimizer: Optimizer = AdamW(learning_rate=5e-5, beta2=0.999, weight_decay=0.01)
    """The update rule with its peak learning rate."""

    schedule: Schedule = Linear(warmup=Fraction(0.1), final=Fraction(0.0))
    """How the learning rate moves over the run."""

    adapter: Adapter | None = None
    """Small weights that learn in the place of the model's own, and are merged into it in the end; of the rest, only
    what is new learns: the head, and types of tokens. None has all weights learn."""

    layer_decay: float = attrs.field(default=1.0, validator=greater_than(0, 1))
    """What the learning rate is multiplied by from each layer to the one below it: below 1, what lies nearer to the
    text changes less (Howard and Ruder 2018). The head learns at the whole rate, embeddings at the least."""

    average_decay: float | None = attrs.field(default=None, validator=attrs.validators.optional(below(1)))
    """Share of a running mean of the weights that a step leaves, such as 0.999: the mean is what is measured and handed
    on (Polyak and Juditsky 1992). The first steps leave less, (1 + n) / (10 + n) after n. None hands on the weights."""

    dropout: float | None = attrs.field(default=None, validator=attrs.validators.optional(below(1)))
    """Share of a network's values that a training step sets to zero; None for what the model was published with."""

    class_weights: Literal["balanced"] | None = None
    """`balanced` has every label count for as much in the loss, however rare: by the examples, or words, of all labels
    over its own; None counts every example the same."""

    early_stopping: int | None = attrs.field(default=None, validator=between(1, 10**6))
    """Epochs without a better measurement after which the run ends; None goes on to its end."""

    select: Literal["best", "last"] = "best"
    """The weights that are handed on: those that the validation examples like best after an epoch, or the last."""

    group_by_length: bool = True
    """Whether examples of like length are read together, which pads less; the order of batches stays random."""

    seed: int = attrs.field(default=42, validator=at_least(0))
    """Decides the first weights of the head, the order of the examples and what is dropped."""

    clip_grad_norm: float | None = attrs.field(default=1.0, validator=greater_than(0, 1e9))
    """Gradients with a larger global norm are scaled down to it; None leaves them alone."""

    precision: Literal["float32", "bfloat16"] = "float32"
    """Type in which matrices are multiplied; weights stay float32. bfloat16 suits GPUs."""

    def steps_per_epoch(self, examples: int) -> int:
        """Optimizer steps that read so many examples once."""
        return math.ceil(examples / self.global_batch_size)

    def of(self, examples: int) -> Training:
        """The run that this is with so many examples; it is measured after each epoch."""
        each = self.steps_per_epoch(examples)
        steps, warmup = max(round(self.epochs * each), 1), self.schedule.warmup
        # Rounded up, a share of so few steps is all of them.
        is_short = isinstance(warmup, Fraction) and math.ceil(warmup.of_total * steps) >= steps
        return Training(
            duration=Steps(steps),
            global_batch_size=self.global_batch_size,
            optimizer=self.optimizer,
            schedule=evolve(self.schedule, warmup=Steps(0)) if is_short else self.schedule,
            seed=self.seed,
            clip_grad_norm=self.clip_grad_norm,
            precision=self.precision,
            validation_interval=each,
        )
