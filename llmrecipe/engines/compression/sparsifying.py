"""Ways of making a model sparse in llmcompressor's words. Imported when it is needed, as `modifiers` is."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import singledispatch
from typing import Any

import torch
from compressed_tensors.utils import patch_attr
from llmcompressor.modifiers import Modifier
from llmcompressor.modifiers.pruning import SparseGPTModifier, WandaPruningModifier
from llmcompressor.modifiers.pruning.sparsegpt import base as sparsegpt

from llmrecipe.engines.compression.sparsity import Amounts
from llmrecipe.errors import StageError
from llmrecipe.recipe.prune import Pattern, Sparse, SparseGPT, Wanda

FAILED = "Failed to invert hessian"
"""What the log says of a layer for which SparseGPT takes the smallest weights instead, and corrects nothing."""

_COLUMNS = 128
"""Columns that SparseGPT chooses from at once (Frantar and Alistarh 2023)."""

_UNREACHED = 1e-20
"""In place of the zero that an input which is always zero has in a Hessian."""


@singledispatch
def modifier(method: Sparse, asked: Amounts, *, keeps_zeros: bool) -> Modifier:
    """What makes some layers sparse.

    Args:
        method: the way.
        asked: for those layers, in the order of the model; a pattern is the same for all.
        keeps_zeros: whether weights that are zero stay so, which not every way does by itself.

    Raises:
        StageError: a way has no function here.
    """
    raise StageError(f"nothing prunes by {type(method).__name__}; register a function with `modifier.register`")


@modifier.register
def _wanda(method: Wanda, asked: Amounts, *, keeps_zeros: bool) -> Modifier:
    # Weights that are zero are the smallest, and none is written to but with a zero.
    return WandaPruningModifier(**_amounts(asked))


@modifier.register
def _sparse_gpt(method: SparseGPT, asked: Amounts, *, keeps_zeros: bool) -> Modifier:
    pattern = method.sparsity
    # It begins a new group with each block.
    columns = max(pattern.of, _COLUMNS // pattern.of * pattern.of) if isinstance(pattern, Pattern) else _COLUMNS
    return SparseGPTModifier(
        dampening_frac=method.dampening_frac,
        block_size=columns,
        preserve_sparsity_mask=keeps_zeros,
        **_amounts(asked),
    )


def _amounts(asked: Amounts) -> dict[str, Any]:
    pattern = next(iter(asked.values()))
    if not isinstance(pattern, Pattern):
        return {"targets": list(asked), "sparsity": list(asked.values())}
    # Its first number is of those that become zero.
    return {
        "targets": list(asked),
        "sparsity": pattern.share,
        "mask_structure": f"{pattern.of - pattern.keep}:{pattern.of}",
    }


@contextmanager
def unreached_kept() -> Iterator[None]:
    """Meanwhile, SparseGPT doesn't make every weight zero whose input is zero in all of the calibration text.

    They are among the first to become zero, and no more of them than were asked for: other text may reach them.
    """
    sparsify = sparsegpt.sparsify_weight

    def with_unreached(
        module: torch.nn.Module, hessians_dict: dict[torch.nn.Module, torch.Tensor], **options: Any
    ) -> Any:
        diagonal = hessians_dict[module].diagonal()
        diagonal.masked_fill_(diagonal == 0, _UNREACHED)
        return sparsify(module=module, hessians_dict=hessians_dict, **options)

    with patch_attr(sparsegpt, "sparsify_weight", with_unreached):
        yield
