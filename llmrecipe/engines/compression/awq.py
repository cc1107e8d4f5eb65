"""AWQ as llmcompressor has it, mended. Imported when it is needed, as `modifiers` is."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from compressed_tensors.quantization import forward_quantize
from compressed_tensors.utils import patch_attr
from llmcompressor.modifiers.transform.awq import base
from llmcompressor.pipelines.cache import IntermediatesCache
from torch import nn


@contextmanager
def mended(device: torch.device) -> Iterator[None]:
    """Meanwhile, AWQ runs on a CPU, and layers with one input are each rounded in their own format while it searches.

    llmcompressor pins memory whatever the device, for which torch wants an accelerator; and it rounds all of those
    layers in the format of the last, where an override gives one of them another.
    """

    def in_its_own(module: nn.Module, value: torch.Tensor, name: str, _: Any) -> torch.Tensor:
        scheme: Any = module.quantization_scheme
        rounded: torch.Tensor = forward_quantize(module, value, name, scheme.weights)
        return rounded

    with ExitStack() as patches:
        patches.enter_context(patch_attr(base, "forward_quantize", in_its_own))
        if device.type == "cpu":
            patches.enter_context(patch_attr(IntermediatesCache, "pin_memory", lambda *_, **__: None))
        yield
