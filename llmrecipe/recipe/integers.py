"""Schemes whose weights are integers."""

from typing import ClassVar

import attrs

from llmrecipe.recipe.kinds import Rounding, Scheme
from llmrecipe.recipe.rounding import GPTQ, Observer
from llmrecipe.recipe.schema import define, kind
from llmrecipe.recipe.validators import between


@kind
class WeightsOnly(Scheme):
    """Weights as integers of some bits, packed; activations stay as they are."""

    num_bits: ClassVar[int]
    """Bits of a weight, without its share of a scale."""

    group_size: int | None = attrs.field(default=128, validator=between(1, 2**20))
    """Weights of a row that share a scale; must divide the input width of every quantized layer. None: a row has one.
    Smaller groups are more exact, and a scale takes 16 bits, that of a row 32 where the model is float32."""

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


@define("w4afp8")
class W4AFP8(Scheme):
    """4-bit weights, packed, around zero; 8-bit floating-point activations, scaled by token at run time."""

    group_size: int | None = attrs.field(default=128, validator=between(1, 2**20))
    """Weights of a row that share a scale, as in `W4A16`; the only one that vLLM computes with is 128."""

    observer: Observer = "imatrix_mse"
    """What a scale is chosen by."""

    rounding: Rounding = GPTQ()
    """How weights are rounded."""


@define("w8a8")
class W8A8(Scheme):
    """8-bit weights with a scale a row, 8-bit activations, scaled by token at run time."""

    smoothing_strength: float | None = attrs.field(default=0.8, validator=between(0, 1))
    """How much of the difficulty moves from activations to weights before they are rounded, by SmoothQuant (Xiao et
    al. 2023); 0.8 suits Llama models. None leaves activations as they are."""

    observer: Observer = "minmax"
    """What a scale is chosen by."""

    rounding: Rounding = GPTQ()
    """How weights are rounded."""

    @property
    def moves_difficulty(self) -> bool:
        """Whether SmoothQuant or AWQ is asked for."""
        return self.smoothing_strength is not None or super().moves_difficulty
