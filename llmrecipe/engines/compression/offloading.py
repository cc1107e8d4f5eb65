"""What llmcompressor holds in memory, held on disk: the weights that it changes, and activations between layers.

Imported when it is needed, by `quantization`, which keeps llmcompressor quiet.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from compressed_tensors.compressors.nvfp4 import base as nvfp4
from compressed_tensors.compressors.pack_quantized import base as packing
from compressed_tensors.utils import patch_attr
from llmcompressor.modifiers.gptq import base as gptq
from llmcompressor.modifiers.pruning.sparsegpt import base as sparsegpt
from llmcompressor.modifiers.transform.awq import base as awq
from llmcompressor.pipelines.cache import IntermediatesCache, IntermediateValue
from torch import nn

from llmrecipe.engines.compression.expanding import rows_at_once, weights_on_disk
from llmrecipe.engines.models.stored import on_disk


@contextmanager
def offloaded(folder: Path) -> Iterator[None]:
    """Meanwhile, llmcompressor keeps what is as large as a model in files without names in `folder`.

    That is what it makes of weights when it packs or expands them or AWQ changes them, the activations between layers,
    and a layer's Hessians, GPTQ's and SparseGPT's: the same numbers, in another kind of memory. Weights are packed some
    rows at a time.
    """
    keep = IntermediatesCache._offload_value

    def kept(cls: type[IntermediatesCache], value: Any, *arguments: Any, **options: Any) -> IntermediateValue:
        made = keep(value, *arguments, **options)
        if isinstance(made.value, torch.Tensor):
            made.value = on_disk(made.value, folder)
        return made

    def empty(make: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        def empty_hessian(*arguments: Any, **options: Any) -> torch.Tensor:
            made = make(*arguments, **options)
            return on_disk(made, folder) if made.device.type == "cpu" else made

        return empty_hessian

    def update_on_disk(module: nn.Module, name: str, data: torch.Tensor) -> None:
        update(module, name, data)
        parameter = module.get_parameter(name)
        if parameter.device.type == "cpu":
            parameter.data = on_disk(parameter.data, folder)

    def packed(numbers: torch.Tensor, num_bits: int, packed_dim: int = 1) -> torch.Tensor:
        if packed_dim != 1 or numbers.dim() != 2:
            return pack(numbers, num_bits, packed_dim)
        # Each row is packed by itself.
        parts = numbers.split(rows_at_once(numbers.shape[1]))
        return torch.cat([pack(part, num_bits) for part in parts])

    def packed_floats(numbers: torch.Tensor) -> torch.Tensor:
        return torch.cat([pack_floats(part) for part in numbers.split(rows_at_once(numbers.shape[1]))])

    update, pack, pack_floats = awq.update_offload_parameter, packing.pack_to_int32, nvfp4.pack_fp4_to_uint8
    with ExitStack() as patches:
        patches.enter_context(weights_on_disk(folder))
        for owner, name, replacement in (
            (IntermediatesCache, "_offload_value", classmethod(kept)),
            (gptq, "make_empty_hessian", empty(gptq.make_empty_hessian)),
            (sparsegpt, "make_empty_hessian", empty(sparsegpt.make_empty_hessian)),
            (awq, "update_offload_parameter", update_on_disk),
            (packing, "pack_to_int32", packed),
            (nvfp4, "pack_fp4_to_uint8", packed_floats),
        ):
            patches.enter_context(patch_attr(owner, name, replacement))
        yield
