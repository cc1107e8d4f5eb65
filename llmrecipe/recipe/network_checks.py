"""Rules that cross the fields of a network."""

from typing import Any

from llmrecipe.recipe.networks.decoder import Llama3RopeScaling
from llmrecipe.recipe.networks.llama import Llama
from llmrecipe.recipe.networks.network import Network
from llmrecipe.recipe.proposals import choice, divisors, multiples_near
from llmrecipe.recipe.rules import Findings, Rules

rules = Rules()


@rules.add("hidden_size", "num_attention_heads")
def _heads(network: Network) -> Findings:
    if not hasattr(network, "head_dim"):
        yield from _head_width(network)


@rules.add("hidden_size", "num_attention_heads", "head_dim")
def _head_dim(network: Any) -> Findings:
    if network.head_dim is None:
        yield from _head_width(network)
    elif network.head_dim % 2 and network.has_rotary_positions:
        pairs = choice(multiples_near(network.head_dim, 2))
        yield (
            "head_dim",
            f"{network.head_dim} is odd, and rotary positions turn pairs of a head's channels; use {pairs}",
        )
    elif isinstance(network, Llama) and network.hidden_size % network.num_attention_heads:
        yield (
            "hidden_size",
            f"{network.hidden_size} is not a multiple of num_attention_heads = {network.num_attention_heads}, and "
            "transformers' Llama needs one, whatever its head_dim; use Mistral, which is the same and doesn't",
        )


def _head_width(network: Network) -> Findings:
    # Rotary positions turn pairs of numbers.
    step, width = (2, "equal and even") if network.has_rotary_positions else (1, "equal")
    if network.hidden_size % (step * network.num_attention_heads):
        yield (
            "hidden_size",
            f"{network.hidden_size} does not give num_attention_heads = {network.num_attention_heads} heads of an "
            f"{width} width; use {choice(multiples_near(network.hidden_size, step * network.num_attention_heads))}",
        )


@rules.add("low_freq_factor", "high_freq_factor")
def _frequencies(scaling: Llama3RopeScaling) -> Findings:
    if scaling.high_freq_factor <= scaling.low_freq_factor:
        yield (
            "high_freq_factor",
            f"{scaling.high_freq_factor:g} must be more than low_freq_factor = {scaling.low_freq_factor:g}; use "
            f"{4 * scaling.low_freq_factor:g}",
        )


@rules.add("num_key_value_heads", "num_attention_heads")
def _key_value_heads(network: Any) -> Findings:
    heads, key_value_heads = network.num_attention_heads, network.num_key_value_heads
    if heads % key_value_heads:
        counts = choice(divisors(heads, up_to=heads))
        yield "num_key_value_heads", f"{key_value_heads} does not divide num_attention_heads = {heads}; use {counts}"
