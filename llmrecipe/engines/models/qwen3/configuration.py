"""Qwen3's configuration in transformers."""

from transformers import Qwen3Config

from llmrecipe.engines.models.llama.configuration import decoder_options
from llmrecipe.recipe.networks.qwen3 import Qwen3


def configuration(network: Qwen3, vocab_size: int, end_of_text_id: int) -> Qwen3Config:
    """The configuration of `Qwen3ForCausalLM` with `vocab_size` rows in its embedding."""
    options = decoder_options(network, vocab_size, end_of_text_id)
    return Qwen3Config(architectures=["Qwen3ForCausalLM"], use_sliding_window=False, attention_bias=False, **options)
