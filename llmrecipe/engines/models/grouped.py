"""Attention of a token that is written: query heads that share a key read it together.

transformers copies keys and values for each of these heads as soon as prompts are of different lengths: a third of the
time that an Intel Xeon takes for a new token of a 135M Llama.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn import functional
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

_USUAL, _NAME = "sdpa", "llmrecipe_grouped"


@contextmanager
def grouped(model: PreTrainedModel) -> Iterator[None]:
    """Meanwhile, a model that attends by PyTorch's function attends so."""
    if model.config._attn_implementation != _USUAL:
        yield
        return
    model.set_attn_implementation(_NAME)
    try:
        yield
    finally:
        model.set_attn_implementation(_USUAL)


def _attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """What heads find: `[sequences, tokens, heads, width]`.

    Args:
        module: the layer.
        query: `[sequences, heads, tokens, width]`.
        key: `[sequences, groups, all tokens, width]`; each is of as many heads, which follow each other.
        value: as `key`.
        attention_mask: which tokens are read, `[sequences, 1, tokens, all tokens]`; None for those before.
        scaling: what products are multiplied by.
        options: others.
    """
    sequences, heads, tokens, width = query.shape
    groups = key.shape[1]
    if tokens > 1 or groups == heads:
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **options)
    # The heads of a group are rows of one product, as tokens are.
    rows = query.reshape(sequences, groups, heads // groups, width)
    mask = None if attention_mask is None else attention_mask.expand(-1, -1, heads // groups, -1)
    found = functional.scaled_dot_product_attention(rows, key, value, attn_mask=mask, scale=scaling)
    return found.reshape(sequences, 1, heads, value.shape[-1]), None


AttentionInterface.register(_NAME, _attend)
AttentionMaskInterface.register(_NAME, sdpa_mask)
