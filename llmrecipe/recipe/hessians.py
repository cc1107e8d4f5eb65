"""What rounding needs to know of a text, gathered once for all schemes."""

import attrs

from llmrecipe.recipe.kinds import Model, Text
from llmrecipe.recipe.networks.network import Network
from llmrecipe.recipe.schema import Word, define
from llmrecipe.recipe.validators import at_least, between

_READS_ANOTHERS = ("k_proj", "v_proj", "up_proj", "key", "value")
"""Layers that read what the one before them reads, by the ends of their names."""


@define("hessians")
class Hessians(Word):
    """Sums of products of what each linear layer of a model reads, over a text: what GPTQ calls its Hessians.

    Their diagonals are what `imatrix_mse` weighs errors by. Whatever has the same model, text, samples and seed shares
    them. Made by the planner.
    """

    model: Model
    """The model."""

    text: Text
    """The text."""

    calibration_samples: int = attrs.field(validator=between(1, 1_000_000))
    """Sequences of its training split."""

    seed: int = attrs.field(validator=at_least(0))
    """Decides which."""

    @property
    def name(self) -> str:
        """Its name in stage names and folders: `small-code-python-stdlib-128`."""
        seed = f"-seed{self.seed}" if self.seed else ""
        return f"{self.model.name}-{self.text.name}-{self.calibration_samples}{seed}"


def hessians_bytes(network: Network) -> int:
    """What they take on disk, in float32; layers that read the same have one together."""
    widths = (
        width for name, width in network.quantized_layers.items() if name.rpartition(".")[2] not in _READS_ANOTHERS
    )
    return sum(4 * width**2 for width in widths)
