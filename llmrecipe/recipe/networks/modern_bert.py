"""ModernBERT."""

from collections.abc import Mapping
from typing import ClassVar, Self

import attrs

from llmrecipe.recipe.floats import MXFP4, MXFP4A16, NVFP4, NVFP4A16
from llmrecipe.recipe.integers import W4AFP8, WeightsOnly
from llmrecipe.recipe.kinds import Scheme
from llmrecipe.recipe.networks.config import Config
from llmrecipe.recipe.networks.network import Network, Ratio, positive_width
from llmrecipe.recipe.networks.weights import Weights
from llmrecipe.recipe.schema import define
from llmrecipe.recipe.validators import between, greater_than

_PACKED = "packs weights, and transformers can't load a packed ModernBert; use FP8"


@define("modernbert")
class ModernBert(Network):
    """A modern encoder (Warner et al. 2024): rotary positions, LayerNorm before each layer, GeGLU, no biases.

    Attention is global in every layer unless it is told otherwise; in the published models two of three layers read a
    window of 128 tokens. Its masked-token head is `Bert`'s, whose output layer has the only biases.
    """

    architectures: ClassVar[Mapping[str, bool]] = {"ModernBertForMaskedLM": True, "ModernBertModel": False}
    reads_both_sides: ClassVar[bool] = True
    has_rotary_positions: ClassVar[bool] = True
    linear_layers: ClassVar[tuple[str, str]] = ("Wqkv, Wo, Wi, dense", "Wo")
    unfit_schemes: ClassVar[Mapping[type[Scheme], str]] = {
        WeightsOnly: _PACKED,
        W4AFP8: _PACKED,
        NVFP4: _PACKED,
        NVFP4A16: _PACKED,
        MXFP4: _PACKED,
        MXFP4A16: _PACKED,
    }
    unfit_for_smoothing: ClassVar[str | None] = "ModernBert's first layer has no norm of its own"

    intermediate_size: int | Ratio = attrs.field(default=Ratio(1.5), validator=positive_width)
    """Width of the feed-forward layer, and of its gate; that of ModernBERT's base is 1.5 × `hidden_size`."""

    max_position_embeddings: int = attrs.field(default=8192, validator=between(1, 10**9))
    """The longest sequence that the model declares it can read."""

    rope_theta: float = attrs.field(default=160_000.0, validator=greater_than(0, 1e12))
    """Base of the rotary frequencies (Su et al. 2021); ModernBERT's of layers with global attention."""

    local_attention: int | None = attrs.field(default=None, validator=between(2, 10**9))
    """Width of the window that a token reads in layers with local attention, half of it on each side; None makes all
    layers global. The published models have 128."""

    global_attn_every_n_layers: int = attrs.field(default=3, validator=between(1, 10_000))
    """Of how many layers one is global, the first one first, where `local_attention` is given."""

    local_rope_theta: float = attrs.field(default=10_000.0, validator=greater_than(0, 1e12))
    """Base of the rotary frequencies in layers with local attention."""

    layer_norm_eps: float = attrs.field(default=1e-5, validator=greater_than(0, 1))
    """Added to the variance before its root is taken."""

    initializer_range: float = attrs.field(default=0.02, validator=greater_than(0, 1))
    """Standard deviation of the initial weights, of those that write to the residual stream times 1 / √(2 × layers)."""

    @property
    def quantized_layers(self) -> dict[str, int]:
        """Columns of every linear layer but the output layer, by its name in transformers."""
        columns = dict.fromkeys(("attn.Wqkv", "attn.Wo", "mlp.Wi"), self.hidden_size)
        columns |= {"mlp.Wo": self.feed_forward_size}
        layers = {
            f"model.layers.{layer}.{name}": width for layer in range(self.num_layers) for name, width in columns.items()
        }
        return layers | {"head.dense": self.hidden_size}

    @property
    def layer_cost(self) -> int:
        """Multiplications by token in the matrices of a layer, as nanotron counts them to share layers out."""
        return (4 * self.hidden_size + 3 * self.feed_forward_size) * self.hidden_size

    def is_local(self, layer: int) -> bool:
        """Whether a layer, counted from 0, reads a window only."""
        return self.local_attention is not None and layer % self.global_attn_every_n_layers != 0

    def num_parameters(self, vocab_size: int) -> int:
        """Weights of the model with `vocab_size` rows in its embedding, masked-token head included."""
        width = self.hidden_size
        # Two norms a layer, but one in the first; those of the embeddings, of the last layer's output and of the head.
        norms = (2 * self.num_layers - 1 + 3) * width
        head = width**2 + vocab_size
        return vocab_size * width + self.num_layers * self.layer_cost + norms + head

    def weights(self, rows: int) -> Weights:
        """What its weights are called in the transformers format, with `rows` rows in its token embedding."""
        width, inner = self.hidden_size, self.feed_forward_size
        embedding = "model.embeddings.tok_embeddings.weight"
        body: dict[str, tuple[int, ...]] = {embedding: (rows, width), "model.embeddings.norm.weight": (width,)}
        for layer in range(self.num_layers):
            name = f"model.layers.{layer}"
            # The first layer has none: the embeddings end with a norm.
            body |= {f"{name}.attn_norm.weight": (width,)} if layer else {}
            body |= {
                f"{name}.attn.Wqkv.weight": (3 * width, width),
                f"{name}.attn.Wo.weight": (width, width),
                f"{name}.mlp_norm.weight": (width,),
                f"{name}.mlp.Wi.weight": (2 * inner, width),
                f"{name}.mlp.Wo.weight": (width, inner),
            }
        return Weights(
            embedding=embedding,
            body=body | {"model.final_norm.weight": (width,)},
            head={"head.dense.weight": (width, width), "head.norm.weight": (width,), "decoder.bias": (rows,)},
            tied={"decoder.weight": embedding},
            prefix="model.",
        )

    @classmethod
    def from_config(cls, config: Config) -> Self:
        """The network that a `config.json` of transformers describes; what it can't do is among `config.faults`."""
        config.require("hidden_activation", "gelu", "gelu", "the feed-forward layer's function is the exact GELU")
        config.require(
            "classifier_activation", "gelu", "gelu", "the function of the masked-token head is the exact GELU"
        )
        config.require("classifier_bias", False, False, "the masked-token head has no bias but the output layer's")
        config.require("tie_word_embeddings", True, True, "the output layer shares the token embedding's weights")
        num_layers = config.integer("num_hidden_layers", missing=22)
        every, local_attention = _windows(config, num_layers)
        theta, local_theta = _bases(config)
        return config.built(
            cls,
            hidden_size=config.integer("hidden_size", missing=768),
            num_layers=num_layers,
            num_attention_heads=config.integer("num_attention_heads", missing=12),
            intermediate_size=config.integer("intermediate_size", missing=1152),
            max_position_embeddings=config.integer("max_position_embeddings", missing=8192),
            initializer_range=config.number("initializer_range", missing=0.02),
            layer_norm_eps=config.number("norm_eps", missing=1e-5),
            rope_theta=theta,
            local_attention=local_attention,
            global_attn_every_n_layers=every,
            local_rope_theta=local_theta,
        )


def _windows(config: Config, num_layers: int) -> tuple[int, int | None]:
    """Of how many layers one is global, and the width of the others' window, None if there are no others."""
    width = config.integer("local_attention", missing=128)
    every = config.integer("global_attn_every_n_layers", missing=3)
    types = config.layer_types(num_layers)
    if types is not None:
        every = next((index for index, kind in enumerate(types) if index and kind == "full_attention"), num_layers)
        if any(
            kind != ("sliding_attention" if index % every else "full_attention") for index, kind in enumerate(types)
        ):
            config.fault("layer_types", f"= {types!r}: one of every so many layers is global, the first one first")
    return (every, width) if every > 1 and num_layers > 1 else (3, None)


def _bases(config: Config) -> list[float]:
    """Bases of the rotary frequencies, global and local; today's form is `rope_parameters`."""
    found, bases = config.part("rope_parameters"), []
    for name, older, default in (
        ("full_attention", "global_rope_theta", 160_000.0),
        ("sliding_attention", "local_rope_theta", 10_000.0),
    ):
        part = found.part(name)
        part.require("rope_type", "default", "default", "its positions aren't scaled")
        part.require("partial_rotary_factor", 1, 1, "all of a head's channels are rotated")
        bases.append(part.number("rope_theta", config.number(older, missing=default)))
        part.refuse_others()
    found.refuse_others()
    return bases
