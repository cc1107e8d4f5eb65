"""Qwen2 in transformers and in nanotron."""

from collections.abc import Sequence

from transformers import Qwen2Config, Qwen2ForCausalLM

from llmrecipe.engines.models.decoder import DecoderArchitecture
from llmrecipe.engines.models.qwen2.configuration import configuration
from llmrecipe.engines.models.qwen2.weights import weights
from llmrecipe.engines.models.table import Weight
from llmrecipe.recipe.networks.qwen2 import Qwen2


class Qwen2Architecture(DecoderArchitecture[Qwen2]):
    """Qwen2."""

    transformers_class = Qwen2ForCausalLM

    def transformers_config(self, network: Qwen2, vocab_size: int, end_of_text_id: int) -> Qwen2Config:
        """The configuration of `Qwen2ForCausalLM` with `vocab_size` rows in its embedding."""
        return configuration(network, vocab_size, end_of_text_id)

    def weights(self, network: Qwen2) -> Sequence[Weight]:
        """The table of a network's weights."""
        return weights(network)


ARCHITECTURE = Qwen2Architecture()
