"""Qwen2's weights: Llama's, and biases of queries, keys and values."""

from llmrecipe.engines.models.llama import weights as llama
from llmrecipe.engines.models.table import Weight
from llmrecipe.recipe.networks.qwen2 import Qwen2


def weights(network: Qwen2) -> list[Weight]:
    """The table of a network's weights."""
    biases = [llama.query_key_value(network, layer, "bias") for layer in range(network.num_layers)]
    return [*llama.weights(network), *biases]
