"""Qwen3's weights: Llama's, and norms of queries and keys."""

from llmrecipe.engines.models.llama import weights as llama
from llmrecipe.engines.models.table import Block, Weight
from llmrecipe.recipe.networks.qwen3 import Qwen3


def weights(network: Qwen3) -> list[Weight]:
    """The table of a network's weights."""
    return [*llama.weights(network), *(norm for layer in range(network.num_layers) for norm in _norms(network, layer))]


def _norms(network: Qwen3, layer: int) -> list[Weight]:
    # A norm has a weight for each channel, in the order of the channels.
    theirs, ours = f"model.layers.{layer}.self_attn.", f"model.decoder.{layer}.pp_block.attn."
    return [
        Weight(f"{ours}{name}.weight", (Block(f"{theirs}{name}.weight", head_size=network.head_size),))
        for name in ("q_norm", "k_norm")
    ]
