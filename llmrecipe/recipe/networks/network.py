"""What every network has, whatever its family."""

import math
from abc import abstractmethod
from collections.abc import Mapping
from typing import ClassVar, Self

import attrs

from llmrecipe.recipe.kinds import Scheme
from llmrecipe.recipe.networks.config import Config
from llmrecipe.recipe.networks.weights import Weights
from llmrecipe.recipe.schema import Word, kind, quantity
from llmrecipe.recipe.validators import between, greater_than


@quantity("ratio")
class Ratio(Word):
    """A width given as a multiple of `hidden_size`."""

    of_hidden_size: float = attrs.field(validator=greater_than(0, 1_000))
    """The multiple."""

    multiple_of: int = attrs.field(default=64, validator=between(1, 1_000_000))
    """The width is rounded up to a multiple of this."""


@kind
class Network(Word):
    """The shape of a model, without weights."""

    hidden_size: int = attrs.field(validator=between(2, 2**20))
    """Width of the residual stream."""

    num_layers: int = attrs.field(validator=between(1, 10_000))
    """Layers of attention and feed-forward."""

    num_attention_heads: int = attrs.field(validator=between(1, 100_000))
    """Query heads of a layer."""

    initializer_range: float = attrs.field(default=0.02, validator=greater_than(0, 1))
    """Standard deviation of the initial weights."""

    make_vocab_size_divisible_by: int = attrs.field(default=64, validator=between(1, 1_000_000))
    """The vocabulary is padded to a multiple of this while it is trained, the same for every tensor-parallel degree."""

    module: ClassVar[str] = ""
    """The module whose `ARCHITECTURE` knows its weights in the engines; empty for those of this package."""

    reads_both_sides: ClassVar[bool]
    """Whether a token reads those after it as well: an encoder."""

    has_token_types: ClassVar[bool] = False
    """Whether each token can come with a number that says of which type it is (`type_vocab_size`)."""

    has_rotary_positions: ClassVar[bool]
    """Whether positions turn pairs of channels, so a head's width must be even."""

    unfit_schemes: ClassVar[Mapping[type[Scheme], str]] = {}
    """Schemes that it can't be quantized with, each with the reason, to be read after its name, and what would work."""

    unfit_for_smoothing: ClassVar[str | None] = None
    """Why the norms before its layers can't take over factors from what they give them, as SmoothQuant and AWQ do; None
    where they can."""

    architectures: ClassVar[Mapping[str, bool]] = {}
    """transformers' classes that it stands for, as a `config.json` names them, and whether each has the output head."""

    linear_layers: ClassVar[tuple[str, str]]
    """Names of the layers that read the residual stream, and of those that read the feed-forward layer's values."""

    @property
    def untied(self) -> "Network":
        """The same with an output layer whose weights are its own, where it can have one."""
        return self

    @property
    @abstractmethod
    def max_position_embeddings(self) -> int:
        """The longest sequence that it can read."""

    @property
    @abstractmethod
    def intermediate_size(self) -> int | Ratio:
        """Width of the feed-forward layer."""

    @property
    @abstractmethod
    def layer_cost(self) -> int:
        """Multiplications by token in the matrices of a layer, as nanotron counts them to share layers out."""

    @abstractmethod
    def num_parameters(self, vocab_size: int) -> int:
        """Weights of the model with `vocab_size` rows in its embedding, output head included."""

    @classmethod
    def from_config(cls, config: Config) -> Self:
        """The network that a `config.json` of transformers describes; what it can't do is among `config.faults`.

        Raises:
            NotImplementedError: the family can't be read from one.
        """
        raise NotImplementedError(f"{cls.__name__} has no `from_config`")

    def weights(self, rows: int) -> Weights:
        """What its weights are called in the transformers format, with `rows` rows in its token embedding.

        Raises:
            NotImplementedError: the family can't be read from one.
        """
        raise NotImplementedError(f"{type(self).__name__} has no `weights`")

    @property
    def head_size(self) -> int:
        """Width of one attention head."""
        return self.hidden_size // self.num_attention_heads

    @property
    def feed_forward_size(self) -> int:
        """`intermediate_size` as a number."""
        size = self.intermediate_size
        return size if isinstance(size, int) else _round_up(self.hidden_size * size.of_hidden_size, size.multiple_of)

    @property
    def quantized_layers(self) -> dict[str, int]:
        """Columns of every linear layer but the output layer, by its name in transformers."""
        return {}

    @property
    def inner_layers(self) -> dict[str, tuple[int, int]]:
        """Rows and columns of the linear layers in its layers, by their names in transformers; none of a head.

        Raises:
            NotImplementedError: it has no `weights`.
        """
        layers = self.quantized_layers
        body = self.weights(1).body if layers else {}
        shapes = {name: body[f"{name}.weight"] for name in layers if f"{name}.weight" in body}
        return {name: (rows, columns) for name, (rows, columns) in shapes.items()}

    @property
    def quantized_widths(self) -> dict[str, int]:
        """Columns of the linear layers, which groups of weights have to divide, by what says how many they are."""
        of_hidden_size, of_intermediate_size = self.linear_layers
        return {
            f"hidden_size = {self.hidden_size} ({of_hidden_size})": self.hidden_size,
            f"intermediate_size = {self.feed_forward_size} ({of_intermediate_size})": self.feed_forward_size,
        }

    @property
    def shared_widths(self) -> dict[str, int]:
        """Rows or columns that tensor-parallel ranks share of its layers' matrices, by what says how many they are."""
        heads = self.num_attention_heads * self.head_size
        of_heads = f"num_attention_heads × head_dim = {self.num_attention_heads} × {self.head_size}"
        is_plain = heads == self.hidden_size
        return {
            f"hidden_size = {heads}" if is_plain else of_heads: heads,
            f"intermediate_size = {self.feed_forward_size}": self.feed_forward_size,
        }

    @property
    def shared_by_tensor_ranks(self) -> dict[str, int]:
        """What tensor-parallel ranks share evenly, by field."""
        return {"num_attention_heads": self.num_attention_heads, "intermediate_size": self.feed_forward_size}

    def padded_vocab_size(self, vocab_size: int) -> int:
        """`vocab_size` rounded up to a multiple of `make_vocab_size_divisible_by`."""
        return _round_up(vocab_size, self.make_vocab_size_divisible_by)


_WIDTHS = between(1, 2**24)


def positive_width(owner: object, attribute: attrs.Attribute, value: int | Ratio) -> None:
    """A validator: the width of a feed-forward layer, where it is a number."""
    if isinstance(value, int):
        _WIDTHS(owner, attribute, value)


def _round_up(size: float, multiple: int) -> int:
    return math.ceil(size / multiple) * multiple
