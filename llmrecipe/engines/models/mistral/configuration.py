"""Mistral's configuration in transformers."""

from transformers import MistralConfig

from llmrecipe.engines.models.llama.configuration import decoder_options
from llmrecipe.recipe.networks.mistral import Mistral


def configuration(network: Mistral, vocab_size: int, end_of_text_id: int) -> MistralConfig:
    """The configuration of `MistralForCausalLM` with `vocab_size` rows in its embedding."""
    options = decoder_options(network, vocab_size, end_of_text_id)
    return MistralConfig(architectures=["MistralForCausalLM"], sliding_window=network.sliding_window, **options)
