"""Qwen3 in transformers and in nanotron."""

from collections.abc import Sequence

from transformers import Qwen3Config, Qwen3ForCausalLM

from llmrecipe.engines.models.decoder import DecoderArchitecture
from llmrecipe.engines.models.qwen3.configuration import configuration
from llmrecipe.engines.models.qwen3.weights import weights
from llmrecipe.engines.models.table import Weight
from llmrecipe.recipe.networks.qwen3 import Qwen3


class Qwen3Architecture(DecoderArchitecture[Qwen3]):
    """Qwen3."""

    transformers_class = Qwen3ForCausalLM

    def transformers_config(self, network: Qwen3, vocab_size: int, end_of_text_id: int) -> Qwen3Config:
        """The configuration of `Qwen3ForCausalLM` with `vocab_size` rows in its embedding."""
        return configuration(network, vocab_size, end_of_text_id)

    def weights(self, network: Qwen3) -> Sequence[Weight]:
        """The table of a network's weights."""
        return weights(network)


ARCHITECTURE = Qwen3Architecture()
