"""The most memory that a rank holds at once, on one GPU.

Saved for the backward pass is what Korthikanti et al. 2022 count, but for attention that stores no weights, SwiGLU,
grouped keys and values, and norms that are one kernel each.
"""

from llmrecipe import memory
from llmrecipe.gpu_check.scale import Case

PIECE = 2048
"""Tokens whose logits there are at once on a GPU, as in `engines/nanotron/networks/loss.py`."""


def peak_bytes(case: Case) -> int:
    """Bytes of all tensors at a step's largest moment: when the loss is found, or at the backward pass's end."""
    model, network = case.model(), case.network
    rows = network.padded_vocab_size(case.vocab_size)
    width = 4 if case.precision == "float32" else 2
    weights = network.num_parameters(rows)
    at_end = memory.rank_bytes(network, model.training, model.parallelism, case.vocab_size)
    # In bfloat16 gradients are added to float32 ones as soon as they are there; in float32 they are what is kept.
    accumulates = case.sequences > case.micro_batch
    before = at_end - weights * width * (0 if accumulates and width == 4 else 1)
    layer = _layer_bytes(case, width)
    held = network.num_layers * (_residual_bytes(case, width) if case.recompute else layer)
    at_head = held + _head_bytes(case, rows, width)
    # A layer is computed again, with its gradients.
    again = held + layer + 3 * _tokens(case) * network.feed_forward_size * width if case.recompute else 0
    return max(before + max(at_head, again), at_end)


def _tokens(case: Case) -> int:
    return case.micro_batch * case.sequence_length


def _residual_bytes(case: Case, width: int) -> int:
    return _tokens(case) * case.network.hidden_size * width


def _layer_bytes(case: Case, width: int) -> int:
    """What a decoder layer keeps of a micro-batch for its backward pass."""
    network = case.network
    hidden, heads = network.hidden_size, network.num_attention_heads
    key_values = network.num_key_value_heads * network.head_size
    # Of each norm what it read and what it gave, and its scale.
    norms, scales = 4 * hidden, 2 * 4
    # Queries, keys and values; of these the whole product that values are a view of; what attention gave, its sums.
    attention, sums = 3 * hidden + 3 * key_values, 4 * heads
    feed_forward = 4 * network.feed_forward_size
    return _tokens(case) * ((norms + attention + feed_forward) * width + scales + sums)


def _head_bytes(case: Case, rows: int, width: int) -> int:
    """What there is besides as the output layer finds its loss and gradients, a piece of the tokens at a time."""
    table = rows * case.network.hidden_size
    logits = min(PIECE, _tokens(case)) * rows
    # The table's gradient, added up in float32, beside a piece of the logits; then in its own format, and laid out.
    largest = max((table + logits) * (4 if width == 4 else 4 + 2), table * 8)
    # The last norm, and the gradient of what it gave.
    return largest + 3 * _residual_bytes(case, width)
