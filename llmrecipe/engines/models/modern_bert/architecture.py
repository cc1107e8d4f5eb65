"""ModernBERT in transformers and in nanotron."""

import functools
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from transformers import ModernBertConfig, ModernBertForMaskedLM

from llmrecipe.engines.models.encoder import EncoderArchitecture
from llmrecipe.engines.models.modern_bert.configuration import configuration
from llmrecipe.engines.models.modern_bert.weights import EMBEDDING, HEAD, weights
from llmrecipe.engines.models.table import Weight, Weights
from llmrecipe.recipe.networks.modern_bert import ModernBert

if TYPE_CHECKING:
    from llmrecipe.engines.nanotron.networks.encoder_blocks import Blocks


class ModernBertArchitecture(EncoderArchitecture[ModernBert]):
    """ModernBERT with its masked-token head."""

    transformers_class = ModernBertForMaskedLM
    tied: Mapping[str, str] = {"decoder.weight": EMBEDDING}

    def transformers_config(self, network: ModernBert, vocab_size: int, end_of_text_id: int) -> ModernBertConfig:
        """The configuration of `ModernBertForMaskedLM` with `vocab_size` rows in its embedding."""
        return configuration(network, vocab_size, end_of_text_id)

    def weights(self, network: ModernBert) -> Sequence[Weight]:
        """The table of a network's weights."""
        return weights(network)

    def context_head(self, network: ModernBert, seed: int) -> Weights:
        """The weights of the head that predicts the tokens before spans, drawn as transformers draws the other's."""
        generator = torch.Generator().manual_seed(seed)
        width, deviation = network.hidden_size, network.initializer_range / math.sqrt(2 * network.num_layers)
        dense = torch.empty(width, width)
        torch.nn.init.trunc_normal_(dense, std=deviation, a=-2 * deviation, b=2 * deviation, generator=generator)
        return {f"{HEAD}context_dense.weight": dense, f"{HEAD}context_layer_norm.weight": torch.ones(width)}

    def fill_buffers(self, built: Any) -> None:
        """The frequencies of its positions."""
        built.model.rotary_emb = type(built.model.rotary_emb)(built.config)

    def masked_logits(self, model: Any, states: torch.Tensor) -> torch.Tensor:
        """The logits of the last layer's states."""
        return model.decoder(model.head(states))

    def blocks(self, network: ModernBert) -> "Blocks":
        """ModernBERT's: norms before layers and one at the end, rotary positions, and no biases."""
        from llmrecipe.engines.nanotron.networks.encoder_blocks import Blocks, Embeddings, PreNormLayer
        from llmrecipe.engines.nanotron.networks.rotary import RotaryEmbedding

        bases = {False: network.rope_theta, True: network.local_rope_theta}
        rotary = {kind: RotaryEmbedding(network.head_size, base) for kind, base in bases.items()}
        layer = functools.partial(PreNormLayer, rotary_of=lambda index: rotary[network.is_local(index)])
        return Blocks(
            embeddings=Embeddings,
            layer=layer,
            norm_eps=network.layer_norm_eps,
            reach=lambda index: (network.local_attention or 0) // 2 if network.is_local(index) else None,
            has_biases=False,
            has_final_norm=True,
        )


ARCHITECTURE = ModernBertArchitecture()
