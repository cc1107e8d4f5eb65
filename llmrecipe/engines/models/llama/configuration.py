"""Llama's configuration in transformers."""

from typing import Any

from transformers import LlamaConfig

from llmrecipe.recipe.networks.decoder import Decoder
from llmrecipe.recipe.networks.llama import Llama


def configuration(network: Llama, vocab_size: int, end_of_text_id: int) -> LlamaConfig:
    """The configuration of `LlamaForCausalLM` with `vocab_size` rows in its embedding."""
    return LlamaConfig(architectures=["LlamaForCausalLM"], **decoder_options(network, vocab_size, end_of_text_id))


def decoder_options(network: Decoder, vocab_size: int, end_of_text_id: int) -> dict[str, Any]:
    """What the configurations of all decoders like Llama have."""
    rotary: dict[str, Any] = {"rope_type": "default", "rope_theta": float(network.rope_theta)}
    if network.rope_scaling is not None:
        scaling = network.rope_scaling
        rotary |= {
            "rope_type": "llama3",
            "factor": scaling.factor,
            "low_freq_factor": scaling.low_freq_factor,
            "high_freq_factor": scaling.high_freq_factor,
            "original_max_position_embeddings": scaling.original_max_position_embeddings,
        }
    return {
        "vocab_size": vocab_size,
        "hidden_size": network.hidden_size,
        "intermediate_size": network.feed_forward_size,
        "num_hidden_layers": network.num_layers,
        "num_attention_heads": network.num_attention_heads,
        "num_key_value_heads": network.num_key_value_heads,
        "head_dim": network.head_size,
        "max_position_embeddings": network.max_position_embeddings,
        "initializer_range": network.initializer_range,
        "rms_norm_eps": network.rms_norm_eps,
        "tie_word_embeddings": network.tie_word_embeddings,
        "rope_parameters": rotary,
        "bos_token_id": end_of_text_id,
        "eos_token_id": end_of_text_id,
        "pad_token_id": end_of_text_id,
    }
