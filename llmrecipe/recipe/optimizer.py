"""How gradients become updates, and how the learning rate moves."""

from typing import Literal

import attrs

from llmrecipe.recipe.quantity import Fraction, Phase
from llmrecipe.recipe.schema import at_least, between, define, greater_than, no_duplicates

NoDecay = tuple[Literal["norms", "biases", "embeddings"], ...]
"""Kinds of weights that weight decay leaves alone; `()` decays every weight.

`norms` are the weights and biases of normalization layers, `biases` those of any layer. `embeddings` are the tables
that a model looks its input up in; an output layer is one where it shares the table's weight, and else is not.
"""


def _no_decay() -> NoDecay:
    return attrs.field(default=("norms", "biases"), validator=no_duplicates)


@define("adamw")
class AdamW:
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019)."""

    learning_rate: float = attrs.field(validator=greater_than(0))
    """The peak, reached at the end of the warm-up."""

    beta1: float = attrs.field(default=0.9, validator=between(0, 1))
    """Decay of the gradient's running mean."""

    beta2: float = attrs.field(default=0.95, validator=between(0, 1))
    """Decay of the squared gradient's running mean; 0.95 is usual for language models (Brown et al. 2020)."""

    eps: float = attrs.field(default=1e-8, validator=greater_than(0))
    """Added to the root of the squared mean."""

    weight_decay: float = attrs.field(default=0.1, validator=at_least(0))
    """Share of a weight, times the learning rate, taken away at a step."""

    no_decay: NoDecay = _no_decay()
    """Weights that weight decay leaves alone: any of `norms`, `biases` and `embeddings`."""


@define("sgd")
class SGD:
    """Stochastic gradient descent with momentum."""

    learning_rate: float = attrs.field(validator=greater_than(0))
    """The peak, reached at the end of the warm-up."""

    momentum: float = attrs.field(default=0.9, validator=between(0, 1))
    """Decay of the running sum of gradients; 0 is plain gradient descent."""

    nesterov: bool = False
    """Whether the momentum looks one step ahead (Nesterov 1983)."""

    weight_decay: float = attrs.field(default=0.0, validator=at_least(0))
    """Added to the gradient as this times the weight."""

    no_decay: NoDecay = _no_decay()
    """Weights that weight decay leaves alone: any of `norms`, `biases` and `embeddings`."""


Optimizer = AdamW | SGD


@define("constant")
class Constant:
    """Warm up linearly, then stay."""

    warmup: Phase = Fraction(0.01)
    """Length of the warm-up, in steps or as a share of the training."""


@define("linear")
class Linear:
    """Warm up linearly, then fall in a straight line to the last step."""

    warmup: Phase = Fraction(0.01)
    """Length of the warm-up, in steps or as a share of the training."""

    final: Fraction = Fraction(0.1)
    """Learning rate at the last step, as a share of the peak."""


@define("cosine")
class Cosine:
    """Warm up linearly, then fall along half a cosine to the last step (Loshchilov and Hutter 2017)."""

    warmup: Phase = Fraction(0.01)
    """Length of the warm-up, in steps or as a share of the training."""

    final: Fraction = Fraction(0.1)
    """Learning rate at the last step, as a share of the peak."""


@define("inverse_square_root")
class InverseSquareRoot:
    """Warm up linearly, then fall with the square root of the step (Vaswani et al. 2017).

    With steps counted from 1, step s after a warm-up of w steps learns at peak × √(w / s): at the peak in the
    warm-up's last step, at half of it in step 4w. Without a warm-up w is 1, so that the first step is at the peak.
    """

    warmup: Phase = Fraction(0.01)
    """Length of the warm-up, in steps or as a share of the training; a longer one also makes the fall slower."""


@define("warmup_stable_decay")
class WarmupStableDecay:
    """Warm up linearly, stay, then fall in a straight line to the last step (Hu et al. 2024, MiniCPM)."""

    warmup: Phase = Fraction(0.01)
    """Length of the warm-up, in steps or as a share of the training."""

    decay: Phase = Fraction(0.2)
    """Length of the fall at the end, in steps or as a share of the training."""

    final: Fraction = Fraction(0.0)
    """Learning rate at the last step, as a share of the peak."""


Schedule = Constant | Linear | Cosine | InverseSquareRoot | WarmupStableDecay
