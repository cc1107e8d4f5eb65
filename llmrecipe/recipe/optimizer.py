"""How gradients become updates, and how the learning rate moves."""

import attrs

from llmrecipe.recipe.quantity import Fraction, Warmup
from llmrecipe.recipe.schema import at_least, between, define, greater_than


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
    """Share of a weight, times the learning rate, taken away at a step; norms are exempt."""


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
    """Added to the gradient as this times the weight; norms are exempt."""


Optimizer = AdamW | SGD


@define("constant")
class Constant:
    """Warm up linearly, then stay."""

    warmup: Warmup = Fraction(0.01)
    """Length of the warm-up, in steps or as a share of the training."""


@define("linear")
class Linear:
    """Warm up linearly, then fall in a straight line to the last step."""

    warmup: Warmup = Fraction(0.01)
    """Length of the warm-up, in steps or as a share of the training."""

    final: Fraction = Fraction(0.1)
    """Learning rate at the last step, as a share of the peak."""


@define("cosine")
class Cosine:
    """Warm up linearly, then fall along half a cosine to the last step (Loshchilov and Hutter 2017)."""

    warmup: Warmup = Fraction(0.01)
    """Length of the warm-up, in steps or as a share of the training."""

    final: Fraction = Fraction(0.1)
    """Learning rate at the last step, as a share of the peak."""


Schedule = Constant | Linear | Cosine
