"""BERT."""

from collections.abc import Mapping
from typing import ClassVar, Self

import attrs

from llmrecipe.recipe.networks.config import Config
from llmrecipe.recipe.networks.network import Network, Ratio, positive_width
from llmrecipe.recipe.networks.weights import Weights
from llmrecipe.recipe.schema import define
from llmrecipe.recipe.validators import between, greater_than


@define("bert")
class Bert(Network):
    """An encoder (Devlin et al. 2019): learned positions, LayerNorm after each addition, GELU, biases everywhere.

    Its masked-token head is a dense layer, GELU and LayerNorm, and an output layer that shares the weights of the token
    embedding. Every token is of segment 0; there is no pooler and no next-sentence prediction.
    """

    architectures: ClassVar[Mapping[str, bool]] = {
        "BertForMaskedLM": True,
        "BertForPreTraining": True,
        "BertModel": False,
    }
    reads_both_sides: ClassVar[bool] = True

    has_token_types: ClassVar[bool] = True
    has_rotary_positions: ClassVar[bool] = False
    linear_layers: ClassVar[tuple[str, str]] = (
        "query, key, value, attention.output, intermediate, transform",
        "output",
    )
    unfit_for_smoothing: ClassVar[str | None] = "Bert's norms come after the additions, which read them too"

    intermediate_size: int | Ratio = attrs.field(default=Ratio(4.0), validator=positive_width)
    """Width of the feed-forward layer; BERT's is 4 × `hidden_size`."""

    max_position_embeddings: int = attrs.field(default=512, validator=between(1, 10**9))
    """Positions that have an embedding, and so the longest sequence."""

    type_vocab_size: int = attrs.field(default=2, validator=between(1, 1_000_000))
    """Segments that have an embedding; every token that is read here is of the first."""

    layer_norm_eps: float = attrs.field(default=1e-12, validator=greater_than(0, 1))
    """Added to the variance before its root is taken."""

    @property
    def quantized_layers(self) -> dict[str, int]:
        """Columns of every linear layer but the output layer, by its name in transformers."""
        columns = {f"attention.self.{part}": self.hidden_size for part in ("query", "key", "value")}
        columns |= {"attention.output.dense": self.hidden_size, "intermediate.dense": self.hidden_size}
        columns |= {"output.dense": self.feed_forward_size}
        layers = {
            f"bert.encoder.layer.{layer}.{name}": width
            for layer in range(self.num_layers)
            for name, width in columns.items()
        }
        return layers | {"cls.predictions.transform.dense": self.hidden_size}

    @property
    def layer_cost(self) -> int:
        """Multiplications by token in the matrices of a layer, as nanotron counts them to share layers out."""
        return (4 * self.hidden_size + 2 * self.feed_forward_size) * self.hidden_size

    def num_parameters(self, vocab_size: int) -> int:
        """Weights of the model with `vocab_size` rows in its embedding, masked-token head included."""
        width = self.hidden_size
        # Of tokens, positions and segments, with their norm.
        embeddings = (vocab_size + self.max_position_embeddings + self.type_vocab_size + 2) * width
        attention = 4 * width * (width + 1) + 2 * width
        feed_forward = self.feed_forward_size * (2 * width + 1) + width + 2 * width
        head = width * (width + 1) + 2 * width + vocab_size
        return embeddings + self.num_layers * (attention + feed_forward) + head

    def weights(self, rows: int) -> Weights:
        """What its weights are called in the transformers format, with `rows` rows in its token embedding."""
        width, inner = self.hidden_size, self.feed_forward_size
        embedding, bias = "bert.embeddings.word_embeddings.weight", "cls.predictions.bias"
        body: dict[str, tuple[int, ...]] = {
            embedding: (rows, width),
            "bert.embeddings.position_embeddings.weight": (self.max_position_embeddings, width),
            "bert.embeddings.token_type_embeddings.weight": (self.type_vocab_size, width),
            **_norm("bert.embeddings.LayerNorm", width),
        }
        for layer in range(self.num_layers):
            name = f"bert.encoder.layer.{layer}"
            for part in ("query", "key", "value"):
                body |= _linear(f"{name}.attention.self.{part}", width, width)
            body |= _linear(f"{name}.attention.output.dense", width, width)
            body |= _norm(f"{name}.attention.output.LayerNorm", width)
            body |= _linear(f"{name}.intermediate.dense", inner, width)
            body |= _linear(f"{name}.output.dense", width, inner)
            body |= _norm(f"{name}.output.LayerNorm", width)
        transform = "cls.predictions.transform"
        return Weights(
            embedding=embedding,
            body=body,
            head={
                **_linear(f"{transform}.dense", width, width),
                **_norm(f"{transform}.LayerNorm", width),
                bias: (rows,),
            },
            tied={"cls.predictions.decoder.weight": embedding, "cls.predictions.decoder.bias": bias},
            prefix="bert.",
            dropped={"bert.pooler.*": "the pooler", "cls.seq_relationship.*": "the next-sentence head"},
            constants=("bert.embeddings.position_ids",),
        )

    @classmethod
    def from_config(cls, config: Config) -> Self:
        """The network that a `config.json` of transformers describes; what it can't do is among `config.faults`.

        What the file says of dropout is kept for those that train it elsewhere: here the recipe's `Training` decides.
        """
        config.require("hidden_act", "gelu", "gelu", "the feed-forward layer's function is the exact GELU")
        config.require("tie_word_embeddings", True, True, "the output layer shares the token embedding's weights")
        return config.built(
            cls,
            hidden_size=config.integer("hidden_size", missing=768),
            num_layers=config.integer("num_hidden_layers", missing=12),
            num_attention_heads=config.integer("num_attention_heads", missing=12),
            intermediate_size=config.integer("intermediate_size", missing=3072),
            max_position_embeddings=config.integer("max_position_embeddings", missing=512),
            type_vocab_size=config.integer("type_vocab_size", missing=2),
            initializer_range=config.number("initializer_range", missing=0.02),
            layer_norm_eps=config.number("layer_norm_eps", missing=1e-12),
        )


def _linear(name: str, outputs: int, inputs: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def _norm(name: str, width: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}
