"""Number formats that a model is quantized to, and how its weights are rounded."""

import re
from typing import ClassVar, Literal

import attrs

from llmrecipe.recipe.kinds import Rounding, Scheme
from llmrecipe.recipe.schema import Word, define, kind
from llmrecipe.recipe.validators import between, greater_than, not_empty

__all__ = [
    "FP8",
    "GPTQ",
    "W2A16",
    "W3A16",
    "W4A16",
    "W5A16",
    "W6A16",
    "W7A16",
    "W8A8",
    "W8A16",
    "Override",
    "RoundToNearest",
]

Observer = Literal["minmax", "mse", "imatrix_mse"]
"""What the scale of a group of weights is chosen by.

`minmax` takes the largest weight; `mse` whatever rounds the group with the least error, which may clip it;
`imatrix_mse` weighs each error by the mean square of what the weight is multiplied with on the calibration text, as
llama.cpp's importance matrix does.
"""


@define("gptq")
class GPTQ(Rounding):
    """Round weights one column at a time, correcting the rest with second-order information (Frantar et al. 2023)."""

    dampening_frac: float = attrs.field(default=0.01, validator=greater_than(0, 1))
    """Share of the Hessian's mean diagonal added to it for stability."""

    activation_order: bool = True
    """Whether columns with the largest inputs are rounded first, when most is left to correct; scales don't move."""


@define("round_to_nearest")
class RoundToNearest(Rounding):
    """Round every weight by itself; fast, and less exact below 8 bits."""


@kind
class WeightsOnly(Scheme):
    """Weights as integers of some bits, packed; activations stay as they are."""

    num_bits: ClassVar[int]
    """Bits of a weight, without its share of a scale."""

    group_size: int | None = attrs.field(default=128, validator=between(1, 2**20))
    """Weights of a row that share a scale; must divide the input width of every quantized layer. None: a row has one.
    Smaller groups are more exact, and a scale takes 16 or 32 bits, as the model's other numbers do."""

    symmetric: bool = True
    """Whether the integers lie around zero; False gives each group a zero point, more exact for `num_bits` a group."""

    observer: Observer = "imatrix_mse"
    """What a scale is chosen by. On text of five domains a Llama of 135 million parameters in 4 bits, groups of 64, by
    GPTQ, recovers 0.87 of its perplexity by `imatrix_mse` and 0.77 by `minmax`, in the same time."""

    rounding: Rounding = GPTQ()
    """How weights are rounded."""


@define("w2a16")
class W2A16(WeightsOnly):
    """2-bit weights, 16-bit activations."""

    num_bits: ClassVar[int] = 2


@define("w3a16")
class W3A16(WeightsOnly):
    """3-bit weights, 16-bit activations."""

    num_bits: ClassVar[int] = 3


@define("w4a16")
class W4A16(WeightsOnly):
    """4-bit weights, 16-bit activations."""

    num_bits: ClassVar[int] = 4


@define("w5a16")
class W5A16(WeightsOnly):
    """5-bit weights, 16-bit activations."""

    num_bits: ClassVar[int] = 5


@define("w6a16")
class W6A16(WeightsOnly):
    """6-bit weights, 16-bit activations."""

    num_bits: ClassVar[int] = 6


@define("w7a16")
class W7A16(WeightsOnly):
    """7-bit weights, 16-bit activations."""

    num_bits: ClassVar[int] = 7


@define("w8a16")
class W8A16(WeightsOnly):
    """8-bit weights, 16-bit activations."""

    num_bits: ClassVar[int] = 8

    group_size: int | None = attrs.field(default=None, validator=between(1, 2**20))
    """As in the others, but a row has one scale unless it is given."""


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


@define("override")
class Override(Word):
    """Other number formats for some layers; of those that match a layer, the first counts."""

    layers: str = attrs.field(validator=not_empty)
    """How their names in transformers end, after a dot, where `*` stands for anything: `v_proj`, `layers.0.*`."""

    scheme: Scheme | None
    """What they are quantized to, rounded in the same way as the rest; None doesn't round them."""

    def matches(self, name: str) -> bool:
        """Whether the layer of this name is one of them."""
        pattern = ".*".join(map(re.escape, self.layers.split("*")))
        return re.fullmatch(rf"(.*\.)?{pattern}", name) is not None
