"""Number formats that a model is quantized to, and how its weights are rounded."""

import attrs

from llmrecipe.recipe import layer_names
from llmrecipe.recipe.floats import FP8, MXFP4, MXFP4A16, MXFP8, MXFP8A16, NVFP4, NVFP4A16, FP8Block
from llmrecipe.recipe.integers import W2A16, W3A16, W4A16, W4AFP8, W5A16, W6A16, W7A16, W8A8, W8A16
from llmrecipe.recipe.kinds import Scheme
from llmrecipe.recipe.rounding import AWQ, GPTQ, AutoRound, RoundToNearest
from llmrecipe.recipe.schema import Word, define
from llmrecipe.recipe.validators import not_empty

__all__ = [
    "AWQ",
    "FP8",
    "GPTQ",
    "MXFP4",
    "MXFP4A16",
    "MXFP8",
    "MXFP8A16",
    "NVFP4",
    "NVFP4A16",
    "W2A16",
    "W3A16",
    "W4A16",
    "W4AFP8",
    "W5A16",
    "W6A16",
    "W7A16",
    "W8A8",
    "W8A16",
    "AutoRound",
    "FP8Block",
    "Override",
    "RoundToNearest",
]


@define("override")
class Override(Word):
    """Other number formats for some layers; of those that match a layer, the first counts."""

    layers: str = attrs.field(validator=not_empty)
    """How their names in transformers end, after a dot, where `*` stands for anything: `v_proj`, `layers.0.*`."""

    scheme: Scheme | None
    """What they are quantized to, rounded in the same way as the rest; None doesn't round them."""

    def matches(self, name: str) -> bool:
        """Whether the layer of this name is one of them."""
        return layer_names.matches(self.layers, name)
