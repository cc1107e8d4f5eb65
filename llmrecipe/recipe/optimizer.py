"""How gradients become updates."""

from typing import Literal

import attrs

from llmrecipe.recipe.kinds import Optimizer
from llmrecipe.recipe.schema import define
from llmrecipe.recipe.validators import FLOAT32_MAX, below, between, greater_than, no_duplicates, zero_or_up_to

__all__ = [
    "SGD",
    "AdamW",
    "Muon",
]

NoDecay = tuple[Literal["norms", "biases", "embeddings"], ...]
"""Kinds of weights that weight decay leaves alone; `()` decays every weight.

`norms` are the weights and biases of normalization layers, `biases` those of any layer. `embeddings` are the tables
that a model looks its input up in; an output layer is one where it shares the table's weight, and else is not.
"""


@define("adamw")
class AdamW(Optimizer):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019)."""

    beta1: float = attrs.field(default=0.9, validator=between(0, 1))
    """Decay of the gradient's running mean."""

    beta2: float = attrs.field(default=0.95, validator=between(0, 1))
    """Decay of the squared gradient's running mean; 0.95 is usual for language models (Brown et al. 2020)."""

    eps: float = attrs.field(default=1e-8, validator=greater_than(0, 1))
    """Added to the root of the squared mean."""

    weight_decay: float = attrs.field(default=0.1, validator=zero_or_up_to(FLOAT32_MAX))
    """Share of a weight, times the learning rate, taken away at a step."""

    no_decay: NoDecay = attrs.field(default=("norms", "biases"), validator=no_duplicates)
    """Weights that weight decay leaves alone: any of `norms`, `biases` and `embeddings`."""

    @property
    def states_per_weight(self) -> int:
        """The two running means."""
        return 2


@define("muon")
class Muon(Optimizer):
    """Momentum whose direction is made orthogonal, for hidden matrices (Jordan et al. 2024), and AdamW for the rest.

    Hidden matrices are those of attention and feed-forward layers, each by itself: query, key, value, gate, up and so
    on. Embeddings, the output layer, norms and biases are the rest. A matrix moves as far at a step as AdamW would move
    it (Liu et al. 2025), so `learning_rate` and `weight_decay` mean the same for all weights.
    """

    momentum: float = attrs.field(default=0.95, validator=below(1))
    """Decay of the running mean of a hidden matrix's gradients, along which it looks one step ahead (Nesterov 1983)."""

    beta1: float = attrs.field(default=0.9, validator=between(0, 1))
    """Of AdamW: decay of the gradient's running mean."""

    beta2: float = attrs.field(default=0.95, validator=between(0, 1))
    """Of AdamW: decay of the squared gradient's running mean."""

    eps: float = attrs.field(default=1e-8, validator=greater_than(0, 1))
    """Of AdamW: added to the root of the squared mean."""

    weight_decay: float = attrs.field(default=0.1, validator=zero_or_up_to(FLOAT32_MAX))
    """Share of a weight, times the learning rate, taken away at a step."""

    no_decay: NoDecay = attrs.field(default=("norms", "biases"), validator=no_duplicates)
    """Weights that weight decay leaves alone: any of `norms`, `biases` and `embeddings`."""

    @property
    def states_per_weight(self) -> int:
        """The running mean; what AdamW moves has another."""
        return 1


@define("sgd")
class SGD(Optimizer):
    """Stochastic gradient descent with momentum."""

    momentum: float = attrs.field(default=0.9, validator=below(1))
    """Decay of the running sum of gradients; 0 is plain gradient descent."""

    nesterov: bool = False
    """Whether the momentum looks one step ahead (Nesterov 1983)."""

    weight_decay: float = attrs.field(default=0.0, validator=zero_or_up_to(FLOAT32_MAX))
    """Added to the gradient as this times the weight."""

    no_decay: NoDecay = attrs.field(default=("norms", "biases"), validator=no_duplicates)
    """Weights that weight decay leaves alone: any of `norms`, `biases` and `embeddings`."""

    @property
    def states_per_weight(self) -> int:
        """The running sum, if there is one."""
        return 1 if self.momentum else 0
