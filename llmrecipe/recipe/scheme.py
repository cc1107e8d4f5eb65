"""Number formats that a model is quantized to, and how its weights are rounded."""

import attrs

from llmrecipe.recipe.kinds import Rounding, Scheme
from llmrecipe.recipe.schema import define
from llmrecipe.recipe.validators import between, greater_than

__all__ = [
    "FP8",
    "GPTQ",
    "W4A16",
    "W8A8",
    "W8A16",
    "RoundToNearest",
]


@define("gptq")
class GPTQ(Rounding):
    """Round weights one column at a time, correcting the rest with second-order information (Frantar et al. 2023)."""

    dampening_frac: float = attrs.field(default=0.01, validator=greater_than(0, 1))
    """Share of the Hessian's mean diagonal added to it for stability."""


@define("round_to_nearest")
class RoundToNearest(Rounding):
    """Round every weight by itself; fast, and less exact below 8 bits."""


@define("w4a16")
class W4A16(Scheme):
    """4-bit weights in groups with a scale each, 16-bit activations."""

    group_size: int = attrs.field(default=128, validator=between(1, 2**20))
    """Weights of a row that share a scale; must divide the input width of every quantized layer."""

    rounding: Rounding = GPTQ()
    """How weights are rounded."""


@define("w8a16")
class W8A16(Scheme):
    """8-bit weights with a scale a row, 16-bit activations."""

    rounding: Rounding = GPTQ()
    """How weights are rounded."""


@define("w8a8")
class W8A8(Scheme):
    """8-bit weights and activations; SmoothQuant evens out the activations first (Xiao et al. 2023)."""

    smoothing_strength: float = attrs.field(default=0.8, validator=between(0, 1))
    """How much of the difficulty moves from activations to weights; 0.8 suits Llama models."""

    rounding: Rounding = GPTQ()
    """How weights are rounded."""


@define("fp8")
class FP8(Scheme):
    """8-bit floating-point weights with a scale a row, activations scaled at run time; needs no calibration."""
