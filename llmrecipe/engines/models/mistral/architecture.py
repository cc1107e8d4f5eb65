"""Mistral in transformers and in nanotron."""

from collections.abc import Sequence

from transformers import MistralConfig, MistralForCausalLM

from llmrecipe.engines.models.decoder import DecoderArchitecture
from llmrecipe.engines.models.mistral.configuration import configuration
from llmrecipe.engines.models.mistral.weights import weights
from llmrecipe.engines.models.table import Weight
from llmrecipe.recipe.networks.mistral import Mistral


class MistralArchitecture(DecoderArchitecture[Mistral]):
    """Mistral."""

    transformers_class = MistralForCausalLM

    def transformers_config(self, network: Mistral, vocab_size: int, end_of_text_id: int) -> MistralConfig:
        """The configuration of `MistralForCausalLM` with `vocab_size` rows in its embedding."""
        return configuration(network, vocab_size, end_of_text_id)

    def weights(self, network: Mistral) -> Sequence[Weight]:
        """The table of a network's weights."""
        return weights(network)


ARCHITECTURE = MistralArchitecture()
