"""Rules that cross the fields of a network."""

from typing import Any

from llmrecipe.recipe.network import Network
from llmrecipe.recipe.proposals import choice, divisors, multiples_near
from llmrecipe.recipe.rules import Findings, Rules

rules = Rules()


@rules.add("hidden_size", "num_attention_heads")
def _head_width(network: Network) -> Findings:
    # Rotary positions turn pairs of numbers.
    step, width = (2, "equal and even") if network.has_rotary_positions else (1, "equal")
    if network.hidden_size % (step * network.num_attention_heads):
        yield (
            "hidden_size",
            f"{network.hidden_size} does not give num_attention_heads = {network.num_attention_heads} heads of an "
            f"{width} width; use {choice(multiples_near(network.hidden_size, step * network.num_attention_heads))}",
        )


@rules.add("num_key_value_heads", "num_attention_heads")
def _key_value_heads(network: Any) -> Findings:
    heads, key_value_heads = network.num_attention_heads, network.num_key_value_heads
    if heads % key_value_heads:
        counts = choice(divisors(heads, up_to=heads))
        yield "num_key_value_heads", f"{key_value_heads} does not divide num_attention_heads = {heads}; use {counts}"
