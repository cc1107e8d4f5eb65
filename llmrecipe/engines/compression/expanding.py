"""Weights that compressed-tensors packs or expands, held on disk."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from compressed_tensors.compressors.model_compressors import model_compressor
from compressed_tensors.compressors.nvfp4 import base as nvfp4
from compressed_tensors.offload import disable_onloading
from compressed_tensors.utils import patch_attr
from torch import nn

from llmrecipe.engines.models.stored import put_on_disk

_AT_ONCE = 1 << 20
"""Numbers that are packed or expanded at once; some seventy bytes are needed for each."""


def rows_at_once(columns: int) -> int:
    """How many rows of a matrix are packed or expanded at once."""
    return max(1, _AT_ONCE // columns)


@contextmanager
def weights_on_disk(folder: Path) -> Iterator[None]:
    """Meanwhile, weights that were packed or expanded are in files without names in `folder`: the same numbers.

    Floats of 4 bits are expanded some rows at a time.
    """

    def expanded(packed: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
        parts = packed.split(rows_at_once(columns))
        return torch.cat([expand(part, len(part), columns) for part in parts])

    expand = nvfp4.unpack_fp4_from_uint8

    def changed(change: Callable[..., None]) -> Callable[..., None]:
        def change_on_disk(module: nn.Module, *arguments: Any, **options: Any) -> None:
            change(module, *arguments, **options)
            with disable_onloading():
                # Before weights are read, they have no memory.
                if not any(parameter.is_meta for parameter in module.parameters()):
                    put_on_disk(module, folder)

        return change_on_disk

    with (
        patch_attr(nvfp4, "unpack_fp4_from_uint8", expanded),
        patch_attr(model_compressor, "compress_module", changed(model_compressor.compress_module)),
        patch_attr(model_compressor, "decompress_module", changed(model_compressor.decompress_module)),
    ):
        yield
