"""Llama in transformers and in nanotron."""

from collections.abc import Sequence

from transformers import LlamaConfig, LlamaForCausalLM

from llmrecipe.engines.models.decoder import DecoderArchitecture
from llmrecipe.engines.models.llama.configuration import configuration
from llmrecipe.engines.models.llama.weights import weights
from llmrecipe.engines.models.table import Weight
from llmrecipe.recipe.networks.llama import Llama


class LlamaArchitecture(DecoderArchitecture[Llama]):
    """Llama."""

    transformers_class = LlamaForCausalLM

    def transformers_config(self, network: Llama, vocab_size: int, end_of_text_id: int) -> LlamaConfig:
        """The configuration of `LlamaForCausalLM` with `vocab_size` rows in its embedding."""
        return configuration(network, vocab_size, end_of_text_id)

    def weights(self, network: Llama) -> Sequence[Weight]:
        """The table of a network's weights."""
        return weights(network)


ARCHITECTURE = LlamaArchitecture()
