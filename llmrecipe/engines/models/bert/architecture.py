"""BERT in transformers and in nanotron.

nanotron has no encoder; `nanotron/networks/encoder.py` builds one of its parts, which keeps query, key and value in one
matrix.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from transformers import BertConfig, BertForMaskedLM

from llmrecipe.engines.models.bert.configuration import configuration
from llmrecipe.engines.models.bert.weights import EMBEDDING, HEAD, OUTPUT_BIAS, weights
from llmrecipe.engines.models.encoder import EncoderArchitecture
from llmrecipe.engines.models.table import Weight, Weights
from llmrecipe.recipe.networks.bert import Bert

if TYPE_CHECKING:
    from llmrecipe.engines.nanotron.networks.encoder_blocks import Blocks


class BertArchitecture(EncoderArchitecture[Bert]):
    """BERT with its masked-token head."""

    transformers_class = BertForMaskedLM
    tied: Mapping[str, str] = {
        "cls.predictions.decoder.weight": EMBEDDING,
        "cls.predictions.decoder.bias": OUTPUT_BIAS,
    }

    def transformers_config(self, network: Bert, vocab_size: int, end_of_text_id: int) -> BertConfig:
        """The configuration of `BertForMaskedLM` with `vocab_size` rows in its embedding."""
        return configuration(network, vocab_size, end_of_text_id)

    def weights(self, network: Bert) -> Sequence[Weight]:
        """The table of a network's weights."""
        return weights(network)

    def context_head(self, network: Bert, seed: int) -> Weights:
        """The weights of the head that predicts the tokens before spans, drawn as transformers draws the other's."""
        generator = torch.Generator().manual_seed(seed)
        width = network.hidden_size
        return {
            f"{HEAD}context_dense.weight": torch.empty(width, width).normal_(
                0, network.initializer_range, generator=generator
            ),
            f"{HEAD}context_dense.bias": torch.zeros(width),
            f"{HEAD}context_layer_norm.weight": torch.ones(width),
            f"{HEAD}context_layer_norm.bias": torch.zeros(width),
        }

    def fill_buffers(self, built: Any) -> None:
        """The numbers of the positions."""
        built.to_empty(device="cpu")
        embeddings = built.bert.embeddings
        embeddings.position_ids = torch.arange(built.config.max_position_embeddings)[None]
        embeddings.token_type_ids = torch.zeros_like(embeddings.position_ids)

    def masked_logits(self, model: Any, states: torch.Tensor) -> torch.Tensor:
        """The logits of the last layer's states."""
        return model.cls(states)

    def blocks(self, network: Bert) -> "Blocks":
        """BERT's: norms after additions, which the last layer ends with, and biases."""
        from llmrecipe.engines.nanotron.networks.encoder_blocks import BertEmbeddings, Blocks, PostNormLayer

        return Blocks(
            embeddings=BertEmbeddings,
            layer=PostNormLayer,
            norm_eps=network.layer_norm_eps,
            has_biases=True,
            has_final_norm=False,
        )


ARCHITECTURE = BertArchitecture()
