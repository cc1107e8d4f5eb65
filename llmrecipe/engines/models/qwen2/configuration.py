"""Qwen2's configuration in transformers."""

from transformers import Qwen2Config

from llmrecipe.engines.models.llama.configuration import decoder_options
from llmrecipe.recipe.networks.qwen2 import Qwen2


def configuration(network: Qwen2, vocab_size: int, end_of_text_id: int) -> Qwen2Config:
    """The configuration of `Qwen2ForCausalLM` with `vocab_size` rows in its embedding."""
    options = decoder_options(network, vocab_size, end_of_text_id)
    return Qwen2Config(architectures=["Qwen2ForCausalLM"], use_sliding_window=False, **options)
