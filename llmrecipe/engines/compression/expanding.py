"""Weights that compressed-tensors packs or expands, held on disk."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from compressed_tensors.compressors.model_compressors import model_compressor
from compressed_tensors.offload import disable_onloading
from compressed_tensors.utils import patch_attr
from torch import nn

from llmrecipe.engines.models.stored import put_on_disk


@contextmanager
def weights_on_disk(folder: Path) -> Iterator[None]:
    """Meanwhile, weights that were packed or expanded are in files without names in `folder`: the same numbers."""

    def changed(change: Callable[..., None]) -> Callable[..., None]:
        def change_on_disk(module: nn.Module, *arguments: Any, **options: Any) -> None:
            change(module, *arguments, **options)
            with disable_onloading():
                # Before weights are read, they have no memory.
                if not any(parameter.is_meta for parameter in module.parameters()):
                    put_on_disk(module, folder)

        return change_on_disk

    with (
        patch_attr(model_compressor, "compress_module", changed(model_compressor.compress_module)),
        patch_attr(model_compressor, "decompress_module", changed(model_compressor.decompress_module)),
    ):
        yield
