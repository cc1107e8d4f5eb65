"""Small weights that learn in the place of a model's own."""

from collections.abc import Iterator
from typing import ClassVar

import attrs

from llmrecipe.recipe import layer_names
from llmrecipe.recipe.kinds import Adapter
from llmrecipe.recipe.networks.network import Network
from llmrecipe.recipe.schema import define, kind
from llmrecipe.recipe.validators import below, between, greater_than, no_duplicates, not_empty

__all__ = ["DoRA", "LoRA"]


@kind
class LowRank(Adapter):
    """Two thin matrices A and B beside each weight W, which counts as W + alpha / rank · B A. B begins as zero."""

    has_magnitudes: ClassVar[bool]
    """Whether the length of each row of the sum is learned by itself."""

    rank: int = attrs.field(default=8, validator=between(1, 2**20))
    """Rows of A, and columns of B."""

    alpha: float = attrs.field(default=16.0, validator=greater_than(0, 1e6))
    """What B A counts for, times the rank: the update is scaled by alpha / rank."""

    dropout: float = attrs.field(default=0.0, validator=below(1))
    """Share of what A reads that a training step sets to zero."""

    layers: tuple[str, ...] = attrs.field(default=("*",), validator=attrs.validators.and_(not_empty, no_duplicates))
    """How the names of the linear layers that get one end in transformers, after a dot, where `*` stands for anything:
    `v_proj`, `layers.0.*`. By default all of the network's layers do; heads and poolers never."""

    def matches(self, name: str) -> bool:
        """Whether the linear layer of this name gets one."""
        return any(layer_names.matches(pattern, name) for pattern in self.layers)

    def num_parameters(self, network: Network) -> int:
        """Weights that it has."""
        found = [shape for name, shape in _shapes(network).items() if self.matches(name)]
        return sum(self.rank * (rows + columns) + self.has_magnitudes * rows for rows, columns in found)

    def misfits(self, network: Network) -> Iterator[tuple[str, str]]:
        """Why such a network can't have it, and what can: its fields, each with the reason."""
        shapes = _shapes(network)
        if not shapes:
            if self.layers != ("*",):
                what = f"{type(network).__name__} names no layers; define its inner_layers, or leave it out"
                yield "layers", f"{self.layers!r} is given, and {what}"
            return
        for index, pattern in enumerate(self.layers):
            if not any(layer_names.matches(pattern, name) for name in shapes):
                yield f"layers[{index}]", f"{pattern!r} matches no layer; {layer_names.known(shapes)}"
        found = {name: min(shape) for name, shape in shapes.items() if self.matches(name)}
        least = min(found, key=found.__getitem__, default="")
        if least and self.rank > found[least]:
            rows, columns = shapes[least]
            yield (
                "rank",
                f"{self.rank}, and {least} has {rows} rows and {columns} columns, so no more of it can differ; use "
                f"at most {found[least]}",
            )


def _shapes(network: Network) -> dict[str, tuple[int, int]]:
    """Rows and columns of the layers that it names; none of a user's own network that names no weights."""
    try:
        return network.inner_layers
    except NotImplementedError:
        return {}


@define("lora")
class LoRA(LowRank):
    """Low-rank adaptation (Hu et al. 2022). It learns at higher rates than whole models do, such as 2e-4."""

    has_magnitudes: ClassVar[bool] = False


@define("dora")
class DoRA(LowRank):
    """LoRA of the directions of rows, whose lengths are learned beside them (Liu et al. 2024, weight-decomposed
    low-rank adaptation): often better at small ranks, and slower."""

    has_magnitudes: ClassVar[bool] = True
