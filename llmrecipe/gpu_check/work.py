"""The work that a training step needs, in floating-point operations, and the matrix products that it consists of."""

from llmrecipe.recipe.networks.bert import Bert
from llmrecipe.recipe.networks.llama import Llama

FORMULA = "6 × tokens × (layers × weights of a layer's matrices + predicted share × head) + attention"
"""A product forward and two backward, two operations a weight each. `attention` is 12 × tokens × layers × length ×
width, half of it where a token reads only those before it. Norms, rotations and what is computed twice don't count."""

Shape = tuple[int, int]
"""Inputs and outputs of a linear layer."""


def layer_shapes(network: Llama | Bert) -> list[Shape]:
    """The linear layers of a layer, with query, key and value, or gate and up, as one."""
    width, inner, heads = network.hidden_size, network.feed_forward_size, network.num_attention_heads
    attention = heads * network.head_size
    if isinstance(network, Llama):
        read = attention + 2 * network.num_key_value_heads * network.head_size
        return [(width, read), (attention, width), (width, 2 * inner), (inner, width)]
    return [(width, 3 * attention), (attention, width), (width, inner), (inner, width)]


def head_shapes(network: Llama | Bert, vocab_size: int) -> list[Shape]:
    """The linear layers after the last layer."""
    width = network.hidden_size
    dense = [] if isinstance(network, Llama) else [(width, width)]
    return [*dense, (width, network.padded_vocab_size(vocab_size))]


def step_flops(network: Llama | Bert, vocab_size: int, *, tokens: int, length: int, predicted: float) -> float:
    """Operations of a step by `FORMULA`.

    Args:
        network: what is trained.
        vocab_size: rows of its output layer.
        tokens: of a step.
        length: of a sequence.
        predicted: share of the tokens that something is predicted for.
    """
    layers = network.num_layers * _weights(layer_shapes(network))
    products = 6 * tokens * (layers + predicted * _weights(head_shapes(network, vocab_size)))
    attention = attention_flops(network, tokens=tokens, length=length)
    return products + (attention / 2 if isinstance(network, Llama) else attention)


def attention_flops(network: Llama | Bert, *, tokens: int, length: int) -> float:
    """Operations of a step's attention where every token reads the whole of its sequence (Chowdhery et al. 2022)."""
    return 12 * tokens * network.num_layers * length * network.num_attention_heads * network.head_size


def _weights(shapes: list[Shape]) -> int:
    return sum(inner * outer for inner, outer in shapes)
