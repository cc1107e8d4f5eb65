"""Schemes whose weights are floating-point numbers of few bits."""

from typing import ClassVar, Literal

import attrs

from llmrecipe.recipe.kinds import Rounding, Scheme
from llmrecipe.recipe.rounding import GPTQ, Observer, RoundToNearest
from llmrecipe.recipe.schema import define, kind
from llmrecipe.recipe.validators import between


@define("fp8")
class FP8(Scheme):
    """8-bit floating-point weights with a scale a row, and 8-bit activations."""

    activations: Literal["dynamic", "static"] = "dynamic"
    """Whether each token's activations are scaled at run time, by their largest, or all of a layer's by the largest on
    the calibration text: faster, less exact, and clipped where other text has larger ones."""

    observer: Observer = "minmax"
    """What a scale is chosen by."""

    rounding: Rounding = RoundToNearest()
    """How weights are rounded."""

    @property
    def scales_activations(self) -> bool:
        """Whether they are static."""
        return self.activations == "static"


@define("fp8_block")
class FP8Block(Scheme):
    """8-bit floating-point weights with a scale a square block, and 8-bit activations with one for each part of a token
    that is as wide, scaled at run time; DeepSeek-V3 is trained in it (DeepSeek-AI 2024)."""

    block_size: int = attrs.field(default=128, validator=between(1, 2**20))
    """Rows and columns of a block; must divide the input width of every quantized layer. DeepSeek-V3's is 128."""

    observer: Observer = "minmax"
    """What a scale is chosen by; not `imatrix_mse`, which weighs rows."""

    rounding: Rounding = RoundToNearest()
    """How weights are rounded."""


@kind
class Microscaled(Scheme):
    """Weights as floating-point numbers in small groups of a row, each with a scale of 8 bits.

    transformers expands them to bfloat16, so the whole model is converted to it before it is quantized.
    """

    is_bfloat16: ClassVar[bool] = True

    group_size: ClassVar[int] = 32
    """Weights that share a scale, 32 in the OCP Microscaling Formats; must divide the input width of every quantized
    layer."""

    observer: Observer = "imatrix_mse"
    """What a scale is chosen by; where it is a power of two, there is little to choose."""

    rounding: Rounding = GPTQ()
    """How weights are rounded."""


@define("nvfp4")
class NVFP4(Microscaled):
    """4-bit floating-point weights and activations in groups of 16, whose scales are 8-bit floats with one factor for a
    layer's weights, and one, from the calibration text, for its activations: NVIDIA's format for Blackwell."""

    group_size: ClassVar[int] = 16

    @property
    def scales_activations(self) -> bool:
        """Whether a layer's activations have a factor from the text: they have."""
        return True


@define("nvfp4a16")
class NVFP4A16(Microscaled):
    """4-bit floating-point weights as those of `NVFP4`; activations stay as they are."""

    group_size: ClassVar[int] = 16


@define("mxfp4")
class MXFP4(Microscaled):
    """4-bit floating-point weights and activations in groups of 32, whose scales are powers of two (OCP Microscaling
    Formats 1.0); those of activations at run time."""


@define("mxfp4a16")
class MXFP4A16(Microscaled):
    """4-bit floating-point weights as those of `MXFP4`; activations stay as they are."""


@define("mxfp8")
class MXFP8(Microscaled):
    """8-bit floating-point weights and activations in groups of 32, whose scales are powers of two (OCP Microscaling
    Formats 1.0); those of activations at run time."""


@define("mxfp8a16")
class MXFP8A16(Microscaled):
    """8-bit floating-point weights as those of `MXFP8`; activations stay as they are."""
