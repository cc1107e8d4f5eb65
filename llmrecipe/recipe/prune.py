"""What of a model is left out, and how that is chosen."""

import math
from typing import ClassVar, Literal

import attrs

from llmrecipe.recipe.evolve import evolve
from llmrecipe.recipe.kinds import Pruning
from llmrecipe.recipe.networks.decoder import Decoder
from llmrecipe.recipe.networks.network import Network
from llmrecipe.recipe.schema import FieldError, Word, define, kind
from llmrecipe.recipe.validators import between, greater_than

__all__ = ["Layers", "Magnitude", "Measured", "Pattern", "PerLayer", "SparseGPT", "Wanda", "Width"]

_FURTHEST = 0.2
"""The most that a layer's share is away from the mean: beyond, what is measured says less and less of what other layers
make of it."""


def _proper_share(owner: object, attribute: attrs.Attribute, value: object) -> None:
    if isinstance(value, float) and not 0 < value < 1:
        meant = f"; {value:g} % are {value / 100:g}" if 1 < value < 100 else ""
        reason = f"must be more than 0 and less than 1, the share of weights that become zero, got {value!r}{meant}"
        raise FieldError(owner, attribute.name, reason)


def _proper_shares(owner: object, attribute: attrs.Attribute, value: tuple[float, ...]) -> None:
    for layer, share in enumerate(value):
        if not 0 <= share < 1:
            reason = f"must be at least 0 and less than 1 each, got {share!r} for layer {layer}, counted from 0"
            raise FieldError(owner, attribute.name, reason)
    if not any(value):
        raise FieldError(owner, attribute.name, f"must be more than 0 for some layer, got {value!r}")


@define("pattern")
class Pattern(Word):
    """Of every few neighbours in a row, how many are kept: what others call 2:4 is `Pattern(keep=2, of=4)`.

    Both are named because "N:M" isn't clear: some count those that are kept, others, as llmcompressor, those that
    become zero.
    """

    keep: int = attrs.field(validator=between(1, 2**20))
    """Weights of a group that are kept; fewer than `of`."""

    of: int = attrs.field(validator=between(2, 2**20))
    """Neighbours in a row that are a group; must divide the input width of every pruned layer."""

    @property
    def share(self) -> float:
        """Share of the weights that become zero."""
        return 1 - self.keep / self.of


@define("per_layer")
class PerLayer(Word):
    """A share for each layer of the network."""

    shares: tuple[float, ...] = attrs.field(validator=_proper_shares)
    """Of each layer, the first one first, the share of the weights of its linear layers that become zero; 0 leaves it
    as it is. Linear layers that aren't in one, as those of an encoder's head, get the mean of all."""

    @property
    def share(self) -> float:
        """Share of the weights that become zero: layers are equally large."""
        return math.fsum(share / len(self.shares) for share in self.shares)


@define("measured")
class Measured(Word):
    """A share for each layer that is the larger, the less its output loses on the calibration text.

    Each layer is pruned by itself to some shares, by `Wanda`'s measure, or by size for `Magnitude`, and what it hands
    on is compared with what was right. The shares are those with the least sum of these errors.
    """

    share: float = attrs.field(validator=_proper_share)
    """The mean of all layers. None is further away from it than 0.2, than half of it, or than half of what it leaves
    of 1."""


def reach(share: float) -> float:
    """How far the share of a layer may be away from the mean that is measured for all."""
    return min(_FURTHEST, share / 2, (1 - share) / 2)


@kind
class Sparse(Pruning):
    """Weights of the linear layers become zero, and the model keeps its shape."""

    is_sparse: ClassVar[bool] = True

    sparsity: float | Pattern | PerLayer | Measured = attrs.field(validator=_proper_share)
    """Share of the weights of each layer that become zero, a pattern that each of its rows follows, or shares that
    differ by layer. Weights that are zero already count."""

    @property
    def share(self) -> float:
        """Share of the weights that become zero."""
        return self.sparsity if isinstance(self.sparsity, float) else self.sparsity.share

    @property
    def suffix(self) -> str:
        """What is added to a model's name for that of the pruned one: `sparse50`, `2of4`, `sparse50-measured`."""
        if isinstance(self.sparsity, Pattern):
            return f"{self.sparsity.keep}of{self.sparsity.of}"
        share = f"sparse{100 * self.share:g}".replace(".", "p").replace("+", "")
        return share if isinstance(self.sparsity, float) else f"{share}-{self.sparsity.tag.replace('_', '-')}"


@define("magnitude")
class Magnitude(Sparse):
    """The smallest weights of each row become zero; no text is read, unless the shares are `Measured`. The baseline."""

    @property
    def reads_text(self) -> bool:
        """Whether it is chosen by what the model computes of a text."""
        return isinstance(self.sparsity, Measured)


@define("wanda")
class Wanda(Sparse):
    """Of each row those become zero whose size times that of their input is smallest (Sun et al. 2024)."""


@define("sparse_gpt")
class SparseGPT(Sparse):
    """One column after the other becomes sparse, and the rest makes up for it by second-order information (Frantar and
    Alistarh 2023); the least loss of the three, for the time of GPTQ."""

    dampening_frac: float = attrs.field(default=0.01, validator=greater_than(0, 1))
    """Share of the Hessian's mean diagonal added to it for stability."""


@define("layers")
class Layers(Pruning):
    """Whole layers are left out, and the model is smaller and faster by as much."""

    num_layers: int = attrs.field(validator=between(1, 10_000))
    """Layers that are left."""

    left_out: Literal["similar", "last"] = "similar"
    """Which aren't: `similar` those whose output is most like their input, by the cosine between them (Men et al. 2024,
    Muralidharan et al. 2024); `last` those before the output layer, for which no text is read: the baseline."""

    @property
    def reads_text(self) -> bool:
        """Whether it is chosen by what the model computes of a text."""
        return self.left_out == "similar"

    @property
    def suffix(self) -> str:
        """What is added to a model's name for that of the pruned one: `20layers`."""
        return f"{self.num_layers}layers"

    def pruned(self, network: Network) -> Network:
        """The shape that is left of a network."""
        return evolve(network, num_layers=self.num_layers)


@define("width")
class Width(Pruning):
    """The same number of neurons, or of heads, is left out of every layer, and the same channels are left out of all
    (Muralidharan et al. 2024)."""

    hidden_size: int | None = attrs.field(default=None, validator=between(2, 2**20))
    """Channels of the residual stream that are left, the same ones in the embedding and in all layers: those with the
    largest mean activation after the norms, whatever its sign. None leaves all."""

    intermediate_size: int | None = attrs.field(default=None, validator=between(1, 2**24))
    """Neurons of each feed-forward layer that are left: those with the largest mean activation, whatever its sign. None
    leaves all."""

    num_key_value_heads: int | None = attrs.field(default=None, validator=between(1, 100_000))
    """Key and value heads of each layer that are left, each with its query heads: those whose values, as the queries
    have weighted them, are largest. None leaves all."""

    @property
    def suffix(self) -> str:
        """What is added to a model's name for that of the pruned one: `hidden512-mlp1024-kv2`."""
        sizes = {"hidden": self.hidden_size, "mlp": self.intermediate_size, "kv": self.num_key_value_heads}
        return "-".join(f"{what}{size}" for what, size in sizes.items() if size is not None)

    def pruned(self, network: Network) -> Network:
        """The shape that is left of a decoder; its heads keep their width."""
        if not isinstance(network, Decoder):
            raise ValueError(f"{type(network).__name__} has no groups of heads")
        # What isn't asked for stays, also where it followed from what is.
        sizes: dict[str, int] = {}
        if self.hidden_size is not None:
            sizes |= {"hidden_size": self.hidden_size, "intermediate_size": network.feed_forward_size}
        if self.intermediate_size is not None:
            sizes["intermediate_size"] = self.intermediate_size
        if self.num_key_value_heads is not None:
            queries = network.num_attention_heads // network.num_key_value_heads
            sizes |= {
                "num_key_value_heads": self.num_key_value_heads,
                "num_attention_heads": queries * self.num_key_value_heads,
            }
        if self.hidden_size is not None or self.num_key_value_heads is not None:
            sizes["head_dim"] = network.head_size
        return evolve(network, **sizes)
