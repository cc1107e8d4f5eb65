"""How long a model is trained, and how."""

import math
from typing import Literal

import attrs

from llmrecipe.recipe.evolve import evolve
from llmrecipe.recipe.kinds import Optimizer, Schedule
from llmrecipe.recipe.quantity import Duration, Epochs, Fraction, Phase, Steps, Tokens
from llmrecipe.recipe.schedule import Cosine
from llmrecipe.recipe.schema import Word, define
from llmrecipe.recipe.validators import at_least, below, between, greater_than, zero_or_up_to


@define("dropout")
class Dropout(Word):
    """Shares of a network's values that a training step sets to zero (Srivastava et al. 2014), others scaled up.

    What is dropped depends on the seed, the sample and the place in the network: every layout drops the same.
    """

    residual: float = attrs.field(default=0.0, validator=below(1))
    """Share of what attention and feed-forward layers add to the residual stream."""

    attention: float = attrs.field(default=0.0, validator=below(1))
    """Share of the attention weights; more than 0 holds them all in memory, and is slower."""

    embedding: float = attrs.field(default=0.0, validator=below(1))
    """Share of the embedded tokens."""


@define("anomalies")
class Anomalies(Word):
    """Which steps are not learned from: those with a loss or gradient that isn't finite, and spikes on request."""

    action: Literal["stop", "skip"] = "stop"
    """`stop` ends the run, and keeps nothing of the step; `skip` continues with the next batch, also where `stop` has
    ended a run. To skip, a GPU has to wait until each step is judged."""

    spike_sigmas: float | None = attrs.field(default=None, validator=greater_than(0, 1e6))
    """A loss or norm so many standard deviations above its mean is a spike too, such as 6; None for no limit."""

    window: int = attrs.field(default=128, validator=between(2, 1_000_000))
    """Steps before a step that the mean and deviation are taken of; with less than half of them nothing is a spike."""


@define("training")
class Training(Word):
    """One training run, independent of where it runs."""

    duration: Duration
    """Its length, as `Tokens(…)`, `Steps(…)` or `Epochs(…)`."""

    global_batch_size: int = attrs.field(validator=between(1, 10**8))
    """Sequences that one optimizer step learns from, over all ranks."""

    optimizer: Optimizer
    """The update rule with its peak learning rate."""

    schedule: Schedule = Cosine()
    """How the learning rate moves over the run."""

    seed: int = attrs.field(default=42, validator=at_least(0))
    """Decides the initial weights, the order of the data and what is dropped."""

    clip_grad_norm: float | None = attrs.field(default=1.0, validator=greater_than(0, 1e9))
    """Gradients with a larger global norm are scaled down to it; None leaves them alone."""

    dropout: Dropout = Dropout()
    """What a training step leaves out."""

    z_loss: float = attrs.field(default=0.0, validator=zero_or_up_to(1_000))
    """Weight of the mean squared logarithm of the softmax's denominator (Chowdhery et al. 2022); 1e-4 is usual."""

    parameters: Literal["all", "head"] = "all"
    """Which weights learn: all, or the output head alone, which shows how much of the task the others know already. An
    output layer that shares the token embedding's weights is no part of the head but for its biases."""

    anomalies: Anomalies = Anomalies()
    """What happens at a step that would do harm."""

    precision: Literal["float32", "bfloat16", "float8"] = "float32"
    """Type of weights and activations, on every machine; bfloat16 (gradients and optimizer in float32) suits GPUs.
    float8 is bfloat16 in which attention and feed-forward layers multiply matrices in float8 (Micikevicius et al.
    2022): faster on GPUs that have it, Ada, Hopper and newer. It needs `pip install 'llmrecipe[float8]'`. A student
    keeps float32 weights, and multiplies in float32 or bfloat16."""

    validation_interval: int = attrs.field(default=100, validator=between(1, 10**9))
    """Steps between two measurements of the loss on the held-out split; the last step is always measured."""

    validation_sequences: int = attrs.field(default=64, validator=between(1, 10**9))
    """Held-out sequences a measurement reads (fewer, if the split is smaller)."""

    select: Literal["last", "best"] = "last"
    """The weights that are handed on: the last step's, or those with the lowest loss of all measurements."""

    keep_every: Steps | None = None
    """Steps between two checkpoints that are kept as a part of the result, for `Trained.at`; None keeps none."""

    @property
    def number_format(self) -> Literal["float32", "bfloat16"]:
        """Type in which weights and activations are kept, whatever matrices are multiplied in."""
        return "float32" if self.precision == "float32" else "bfloat16"

    def num_steps(self, sequence_length: int) -> int:
        """Optimizer steps of the whole run.

        Raises:
            ValueError: its length is in epochs, and so depends on the text; see `settled`.
        """
        match self.duration:
            case Steps(count):
                return count
            case Epochs():
                raise ValueError(f"how many steps {self.duration} are isn't known without the tokens of the text")
            case Tokens(count):
                return math.ceil(count / (self.global_batch_size * sequence_length))

    def settled(self, sequences: int) -> "Training":
        """This training with its length in steps if that is in epochs, of a text of so many sequences."""
        if not isinstance(self.duration, Epochs):
            return self
        read = max(round(self.duration.count * sequences), 1)
        return evolve(self, duration=Steps(math.ceil(read / self.global_batch_size)))

    def is_kept(self, step: int) -> bool:
        """Whether the checkpoint of this step is a part of the result."""
        return self.keep_every is not None and step > 0 and step % self.keep_every.count == 0

    def warmup_steps(self, sequence_length: int) -> int:
        """Optimizer steps of the warm-up."""
        return self.phase_steps(self.schedule.warmup, sequence_length)

    def phase_steps(self, phase: Phase, sequence_length: int) -> int:
        """Optimizer steps of a part of this run."""
        if isinstance(phase, Fraction):
            return math.ceil(phase.of_total * self.num_steps(sequence_length))
        return phase.count
