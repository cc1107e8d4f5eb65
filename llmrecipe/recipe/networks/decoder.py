"""What decoders like Llama share, of which they are all variants."""

from collections.abc import Mapping
from typing import Any, ClassVar, Self

import attrs

from llmrecipe.recipe.evolve import evolve
from llmrecipe.recipe.networks.config import Config
from llmrecipe.recipe.networks.network import Network, Ratio, positive_width
from llmrecipe.recipe.networks.weights import Weights
from llmrecipe.recipe.schema import Word, define, kind
from llmrecipe.recipe.validators import between, greater_than


@define("llama3_rope_scaling")
class Llama3RopeScaling(Word):
    """Rotary frequencies for longer sequences than those trained on, as in Llama 3.1 (Grattafiori et al. 2024).

    Wavelengths longer than `original_max_position_embeddings / low_freq_factor` are stretched by `factor`, those
    shorter than `original_max_position_embeddings / high_freq_factor` stay, and those between are in between.
    """

    factor: float = attrs.field(default=8.0, validator=between(1, 1_000_000))
    """What the longest wavelengths are multiplied by."""

    low_freq_factor: float = attrs.field(default=1.0, validator=greater_than(0, 1_000_000))
    """Wavelengths from which on all is stretched, as a divisor of the original length."""

    high_freq_factor: float = attrs.field(default=4.0, validator=greater_than(0, 1_000_000))
    """Wavelengths up to which nothing is; more than `low_freq_factor`."""

    original_max_position_embeddings: int = attrs.field(default=8192, validator=between(1, 10**9))
    """The longest sequence before."""


@kind
class Decoder(Network):
    """A decoder with RMSNorm before each layer, rotary positions, SwiGLU and grouped-query attention."""

    reads_both_sides: ClassVar[bool] = False
    has_rotary_positions: ClassVar[bool] = True
    linear_layers: ClassVar[tuple[str, str]] = ("q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj", "down_proj")

    has_query_key_value_biases: ClassVar[bool] = False
    """Whether the layers of queries, keys and values have biases."""

    has_query_key_norms: ClassVar[bool] = False
    """Whether each head's query and key go through an RMSNorm before they are rotated."""

    config_defaults: ClassVar[Mapping[str, int]] = {"max_position_embeddings": 2048}
    """transformers' values of keys that a `config.json` lacks, where these aren't the same for all, or a null would
    mean another."""

    num_key_value_heads: int = attrs.field(validator=between(1, 100_000))
    """Key and value heads of a layer (Ainslie et al. 2023); equal to `num_attention_heads` for multi-head attention."""

    head_dim: int | None = attrs.field(default=None, validator=between(2, 100_000))
    """Width of one attention head; None for `hidden_size / num_attention_heads`."""

    intermediate_size: int | Ratio = attrs.field(default=Ratio(8 / 3), validator=positive_width)
    """Width of the feed-forward layer; 8/3 keeps a SwiGLU's parameters at those of a plain 4 × layer (Shazeer 2020)."""

    max_position_embeddings: int = attrs.field(default=2048, validator=between(1, 10**9))
    """The longest sequence that the model declares it can read."""

    rope_theta: float = attrs.field(default=10_000.0, validator=greater_than(0, 1e12))
    """Base of the rotary frequencies (Su et al. 2021)."""

    rope_scaling: Llama3RopeScaling | None = None
    """How the rotary frequencies are stretched; None leaves them."""

    rms_norm_eps: float = attrs.field(default=1e-5, validator=greater_than(0, 1))
    """Added to the mean square before its root is taken."""

    tie_word_embeddings: bool = False
    """Whether the output layer shares the input embedding's weights; saves parameters on small models."""

    @property
    def head_size(self) -> int:
        """Width of one attention head."""
        return self.head_dim or super().head_size

    @property
    def window(self) -> int | None:
        """How many tokens each token reads, itself included; None for all before it."""
        return None

    @property
    def layer_cost(self) -> int:
        """Multiplications by token in the matrices of a layer, as nanotron counts them to share layers out."""
        return (4 * self.num_attention_heads * self.head_size + 3 * self.feed_forward_size) * self.hidden_size

    @property
    def quantized_layers(self) -> dict[str, int]:
        """Columns of every linear layer but the output layer, by its name in transformers."""
        columns = {f"self_attn.{part}_proj": self.hidden_size for part in ("q", "k", "v")}
        columns |= {"self_attn.o_proj": self.num_attention_heads * self.head_size}
        columns |= {f"mlp.{part}_proj": self.hidden_size for part in ("gate", "up")}
        columns |= {"mlp.down_proj": self.feed_forward_size}
        return {
            f"model.layers.{layer}.{name}": width for layer in range(self.num_layers) for name, width in columns.items()
        }

    @property
    def quantized_widths(self) -> dict[str, int]:
        """Columns of the linear layers, which groups of weights have to divide, by what says how many they are."""
        heads = self.num_attention_heads * self.head_size
        of_heads = f"num_attention_heads × head_dim = {self.num_attention_heads} × {self.head_size} (o_proj)"
        widths = super().quantized_widths
        if heads == self.hidden_size:
            return widths
        return {what.replace("o_proj, ", ""): width for what, width in widths.items()} | {of_heads: heads}

    @property
    def shared_widths(self) -> dict[str, int]:
        """Rows or columns that tensor-parallel ranks share of its layers' matrices, by what says how many they are."""
        heads, key_value_heads, size = self.num_attention_heads, self.num_key_value_heads, self.head_size
        of_all = "(num_attention_heads + 2 × num_key_value_heads) × head_dim"
        rows = (heads + 2 * key_value_heads) * size
        return super().shared_widths | {f"{of_all} = ({heads} + 2 × {key_value_heads}) × {size}": rows}

    @property
    def shared_by_tensor_ranks(self) -> dict[str, int]:
        """What tensor-parallel ranks share evenly, by field."""
        return {**super().shared_by_tensor_ranks, "num_key_value_heads": self.num_key_value_heads}

    @property
    def untied(self) -> Network:
        """The same with an output layer whose weights are its own."""
        return evolve(self, tie_word_embeddings=False)

    def num_parameters(self, vocab_size: int) -> int:
        """Weights of the model with `vocab_size` rows in its embedding, output head included."""
        heads, key_value_heads = self.num_attention_heads, self.num_key_value_heads
        attention = 2 * self.hidden_size * self.head_size * (heads + key_value_heads)
        if self.has_query_key_value_biases:
            attention += self.head_size * (heads + 2 * key_value_heads)
        if self.has_query_key_norms:
            attention += 2 * self.head_size
        feed_forward = 3 * self.hidden_size * self.feed_forward_size
        layers = self.num_layers * (attention + feed_forward + 2 * self.hidden_size)
        return vocab_size * self.hidden_size * (1 if self.tie_word_embeddings else 2) + layers + self.hidden_size

    def weights(self, rows: int) -> Weights:
        """What its weights are called in the transformers format, with `rows` rows in its token embedding."""
        body: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (rows, self.hidden_size)}
        for layer in range(self.num_layers):
            body |= {f"model.layers.{layer}.{name}": shape for name, shape in self._layer_weights().items()}
        output = "lm_head.weight"
        return Weights(
            embedding="model.embed_tokens.weight",
            body=body | {"model.norm.weight": (self.hidden_size,)},
            head={} if self.tie_word_embeddings else {output: (rows, self.hidden_size)},
            tied={output: "model.embed_tokens.weight"} if self.tie_word_embeddings else {},
            prefix="model.",
            constants=("model.*rotary_emb.inv_freq",),
        )

    def _layer_weights(self) -> dict[str, tuple[int, ...]]:
        width, inner = self.hidden_size, self.feed_forward_size
        outputs = {"q_proj": self.num_attention_heads * self.head_size} | dict.fromkeys(
            ("k_proj", "v_proj"), self.num_key_value_heads * self.head_size
        )
        shapes: dict[str, tuple[int, ...]] = {
            "input_layernorm.weight": (width,),
            **{f"self_attn.{name}.weight": (rows, width) for name, rows in outputs.items()},
            "self_attn.o_proj.weight": (width, outputs["q_proj"]),
            "post_attention_layernorm.weight": (width,),
            "mlp.gate_proj.weight": (inner, width),
            "mlp.up_proj.weight": (inner, width),
            "mlp.down_proj.weight": (width, inner),
        }
        if self.has_query_key_value_biases:
            shapes |= {f"self_attn.{name}.bias": (rows,) for name, rows in outputs.items()}
        if self.has_query_key_norms:
            shapes |= {f"self_attn.{name}_norm.weight": (self.head_size,) for name in ("q", "k")}
        return shapes

    @classmethod
    def from_config(cls, config: Config) -> Self:
        """The network that a `config.json` of transformers describes; what it can't do is among `config.faults`."""
        defaults = cls.config_defaults
        config.require("hidden_act", "silu", "silu", "the feed-forward layer is a SwiGLU")
        hidden_size, heads = config.integer("hidden_size"), config.integer("num_attention_heads")
        head_dim = config.integer("head_dim", max(2, hidden_size // heads), missing=defaults.get("head_dim"))
        length = config.integer("max_position_embeddings", missing=defaults["max_position_embeddings"])
        rope_theta, rope_scaling = _rotary(config, length)
        return config.built(
            cls,
            hidden_size=hidden_size,
            num_layers=config.integer("num_hidden_layers"),
            num_attention_heads=heads,
            num_key_value_heads=config.integer(
                "num_key_value_heads", heads, missing=defaults.get("num_key_value_heads")
            ),
            head_dim=None if head_dim * heads == hidden_size else head_dim,
            intermediate_size=config.integer("intermediate_size"),
            max_position_embeddings=length,
            initializer_range=config.number("initializer_range", 0.02),
            rms_norm_eps=config.number("rms_norm_eps", 1e-6),
            tie_word_embeddings=config.flag("tie_word_embeddings", False),
            rope_theta=rope_theta,
            rope_scaling=rope_scaling,
            **cls._own_fields(config),
        )

    @classmethod
    def _own_fields(cls, config: Config) -> dict[str, Any]:
        """Fields that not every decoder has."""
        return {}


def _rotary(config: Config, length: int) -> tuple[float, Llama3RopeScaling | None]:
    """Base and scaling: in `rope_parameters` as transformers writes today, or in `rope_scaling` as before.

    Args:
        config: all keys.
        length: positions that the model declares it can read, to which scaling refers unless it says otherwise.
    """
    today, before = config.part("rope_parameters"), config.part("rope_scaling")
    found = before if config.get("rope_scaling") else today
    theta = found.number("rope_theta", config.number("rope_theta", 10_000.0))
    found.require("partial_rotary_factor", 1, 1, "all of a head's channels are rotated")
    kind, older = found.get("rope_type"), found.get("type", "default")
    if (kind or older) not in ("default", "llama3"):
        found.fault("rope_type", f"= {kind or older!r}: known are 'default' and 'llama3'")
        return theta, None
    scaling = None
    if (kind or older) == "llama3":
        scaling = found.built(
            Llama3RopeScaling,
            factor=found.number("factor"),
            low_freq_factor=found.number("low_freq_factor"),
            high_freq_factor=found.number("high_freq_factor"),
            original_max_position_embeddings=found.integer("original_max_position_embeddings", length),
        )
    found.refuse_others()
    return theta, scaling
