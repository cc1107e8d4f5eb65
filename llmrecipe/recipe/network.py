"""Networks: the shape of a model, without weights."""

import math
from abc import abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import attrs

from llmrecipe.recipe.kinds import Scheme
from llmrecipe.recipe.schema import FieldError, Word, at_least, define, greater_than, kind, quantity
from llmrecipe.recipe.scheme import W4A16, W8A8, W8A16


@quantity("ratio")
class Ratio(Word):
    """A width given as a multiple of `hidden_size`."""

    of_hidden_size: float = attrs.field(validator=greater_than(0))
    """The multiple."""

    multiple_of: int = attrs.field(default=64, validator=at_least(1))
    """The width is rounded up to a multiple of this."""


@kind
class Network(Word):
    """The shape of a model, without weights."""

    hidden_size: int = attrs.field(validator=at_least(2))
    """Width of the residual stream."""

    num_layers: int = attrs.field(validator=at_least(1))
    """Layers of attention and feed-forward."""

    num_attention_heads: int = attrs.field(validator=at_least(1))
    """Query heads of a layer; each is `hidden_size / num_attention_heads` wide."""

    initializer_range: float = attrs.field(default=0.02, validator=greater_than(0))
    """Standard deviation of the initial weights."""

    make_vocab_size_divisible_by: int = attrs.field(default=64, validator=at_least(1))
    """The vocabulary is padded to a multiple of this, once, so it is the same for every tensor-parallel degree."""

    module: ClassVar[str] = ""
    """The module whose `ARCHITECTURE` knows its weights in the engines; empty for those of this package."""

    reads_both_sides: ClassVar[bool]
    """Whether a token reads those after it as well: an encoder."""

    has_rotary_positions: ClassVar[bool]
    """Whether positions turn pairs of channels, so a head's width must be even."""

    unfit_schemes: ClassVar[Mapping[type[Scheme], str]] = {}
    """Schemes that it can't be quantized with, each with the reason and what would work."""

    linear_layers: ClassVar[tuple[str, str]]
    """Names of the layers that read the residual stream, and of those that read the feed-forward layer's values."""

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
        """Weights of the model with a vocabulary of `vocab_size` tokens, padding and output head included."""

    @property
    def feed_forward_size(self) -> int:
        """`intermediate_size` as a number."""
        size = self.intermediate_size
        return size if isinstance(size, int) else _round_up(self.hidden_size * size.of_hidden_size, size.multiple_of)

    @property
    def shared_by_tensor_ranks(self) -> dict[str, int]:
        """What tensor-parallel ranks share evenly, by field."""
        return {"num_attention_heads": self.num_attention_heads, "intermediate_size": self.feed_forward_size}

    def padded_vocab_size(self, vocab_size: int) -> int:
        """`vocab_size` rounded up to a multiple of `make_vocab_size_divisible_by`."""
        return _round_up(vocab_size, self.make_vocab_size_divisible_by)


def _positive_width(owner: object, attribute: attrs.Attribute, value: int | Ratio) -> None:
    if isinstance(value, int) and value < 1:
        raise FieldError(owner, attribute.name, f"must be at least 1, got {value}")


def _width(default: Ratio) -> int | Ratio:
    return attrs.field(default=default, validator=_positive_width)


def _round_up(size: float, multiple: int) -> int:
    return math.ceil(size / multiple) * multiple


@define("llama")
class Llama(Network):
    """A decoder (Touvron et al. 2023): RMSNorm, rotary positions, SwiGLU and grouped-query attention."""

    reads_both_sides: ClassVar[bool] = False
    has_rotary_positions: ClassVar[bool] = True
    linear_layers: ClassVar[tuple[str, str]] = ("q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj", "down_proj")

    num_key_value_heads: int = attrs.field(validator=at_least(1))
    """Key and value heads of a layer (Ainslie et al. 2023); equal to `num_attention_heads` for multi-head attention."""

    intermediate_size: int | Ratio = _width(Ratio(8 / 3))
    """Width of the feed-forward layer; 8/3 keeps a SwiGLU's parameters at those of a plain 4 × layer (Shazeer 2020)."""

    max_position_embeddings: int = attrs.field(default=2048, validator=at_least(1))
    """The longest sequence that the model declares it can read."""

    rope_theta: float = attrs.field(default=10_000.0, validator=greater_than(0))
    """Base of the rotary frequencies (Su et al. 2021)."""

    rms_norm_eps: float = attrs.field(default=1e-5, validator=greater_than(0))
    """Added to the mean square before its root is taken."""

    tie_word_embeddings: bool = False
    """Whether the output layer shares the input embedding's weights; saves parameters on small models."""

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.hidden_size // self.num_attention_heads

    @property
    def layer_cost(self) -> int:
        """Multiplications by token in the matrices of a layer, as nanotron counts them to share layers out."""
        return (4 * self.hidden_size + 3 * self.feed_forward_size) * self.hidden_size

    @property
    def shared_by_tensor_ranks(self) -> dict[str, int]:
        """What tensor-parallel ranks share evenly, by field."""
        return {**super().shared_by_tensor_ranks, "num_key_value_heads": self.num_key_value_heads}

    def num_parameters(self, vocab_size: int) -> int:
        """Weights of the model with a vocabulary of `vocab_size` tokens, padding included."""
        embeddings = self.padded_vocab_size(vocab_size) * self.hidden_size
        attention = 2 * self.hidden_size * self.head_dim * (self.num_attention_heads + self.num_key_value_heads)
        feed_forward = 3 * self.hidden_size * self.feed_forward_size
        norms = 2 * self.hidden_size
        layers = self.num_layers * (attention + feed_forward + norms)
        return embeddings * (1 if self.tie_word_embeddings else 2) + layers + self.hidden_size


@define("bert")
class Bert(Network):
    """An encoder (Devlin et al. 2019): learned positions, LayerNorm after each addition, GELU, biases everywhere.

    Its masked-token head is a dense layer, GELU and LayerNorm, and an output layer that shares the weights of the token
    embedding. Every token is of segment 0; there is no next-sentence prediction.
    """

    reads_both_sides: ClassVar[bool] = True
    has_rotary_positions: ClassVar[bool] = False
    linear_layers: ClassVar[tuple[str, str]] = (
        "query, key, value, attention.output, intermediate, transform",
        "output",
    )
    unfit_schemes: ClassVar[Mapping[type[Scheme], str]] = {
        W8A8: "W8A8 evens out activations in the norm before a layer, and Bert's norms come after the additions, which "
        "read them too; use W8A16 or FP8",
    }

    intermediate_size: int | Ratio = _width(Ratio(4.0))
    """Width of the feed-forward layer; BERT's is 4 × `hidden_size`."""

    max_position_embeddings: int = attrs.field(default=512, validator=at_least(1))
    """Positions that have an embedding, and so the longest sequence."""

    layer_norm_eps: float = attrs.field(default=1e-12, validator=greater_than(0))
    """Added to the variance before its root is taken."""

    @property
    def layer_cost(self) -> int:
        """Multiplications by token in the matrices of a layer, as nanotron counts them to share layers out."""
        return (4 * self.hidden_size + 2 * self.feed_forward_size) * self.hidden_size

    def num_parameters(self, vocab_size: int) -> int:
        """Weights of the model with a vocabulary of `vocab_size` tokens, padding and the masked-token head included."""
        width, vocabulary = self.hidden_size, self.padded_vocab_size(vocab_size)
        # Of tokens, positions and the two segments, with their norm.
        embeddings = (vocabulary + self.max_position_embeddings + 2 + 2) * width
        attention = 4 * width * (width + 1) + 2 * width
        feed_forward = self.feed_forward_size * (2 * width + 1) + width + 2 * width
        head = width * (width + 1) + 2 * width + vocabulary
        return embeddings + self.num_layers * (attention + feed_forward) + head


@define("modernbert")
class ModernBert(Network):
    """A modern encoder (Warner et al. 2024): rotary positions, LayerNorm before each layer, GeGLU, no biases.

    Unlike in the published models, which alternate with windows of 128 tokens, attention is global in every layer. Its
    masked-token head is `Bert`'s, whose output layer has the only biases.
    """

    reads_both_sides: ClassVar[bool] = True
    has_rotary_positions: ClassVar[bool] = True
    linear_layers: ClassVar[tuple[str, str]] = ("Wqkv, Wo, Wi, dense", "Wo")
    unfit_schemes: ClassVar[Mapping[type[Scheme], str]] = {
        W8A8: "W8A8 evens out activations in the norm before a layer, and ModernBert's first layer has none of its "
        "own; use FP8",
        W4A16: "W4A16 packs weights, and transformers can't load a packed ModernBert; use FP8",
        W8A16: "W8A16 packs weights, and transformers can't load a packed ModernBert; use FP8",
    }

    intermediate_size: int | Ratio = _width(Ratio(1.5))
    """Width of the feed-forward layer, and of its gate; that of ModernBERT's base is 1.5 × `hidden_size`."""

    max_position_embeddings: int = attrs.field(default=8192, validator=at_least(1))
    """The longest sequence that the model declares it can read."""

    rope_theta: float = attrs.field(default=160_000.0, validator=greater_than(0))
    """Base of the rotary frequencies (Su et al. 2021); ModernBERT's of layers with global attention."""

    layer_norm_eps: float = attrs.field(default=1e-5, validator=greater_than(0))
    """Added to the variance before its root is taken."""

    initializer_range: float = attrs.field(default=0.02, validator=greater_than(0))
    """Standard deviation of the initial weights, of those that write to the residual stream times 1 / √(2 × layers)."""

    @property
    def layer_cost(self) -> int:
        """Multiplications by token in the matrices of a layer, as nanotron counts them to share layers out."""
        return (4 * self.hidden_size + 3 * self.feed_forward_size) * self.hidden_size

    def num_parameters(self, vocab_size: int) -> int:
        """Weights of the model with a vocabulary of `vocab_size` tokens, padding and the masked-token head included."""
        width, vocabulary = self.hidden_size, self.padded_vocab_size(vocab_size)
        # Two norms a layer, but one in the first; those of the embeddings, of the last layer's output and of the head.
        norms = (2 * self.num_layers - 1 + 3) * width
        head = width**2 + vocabulary
        return vocabulary * width + self.num_layers * self.layer_cost + norms + head
