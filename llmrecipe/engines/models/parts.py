"""Networks that compute in a wide number format one part at a time, whatever their weights are stored in."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn


def compute_in(network: nn.Module, dtype: torch.dtype) -> None:
    """Let `network` compute what it would after `network.to(dtype)`, with no more than one part's weights in `dtype`.

    A part is a layer, or what comes before and after the layers. Its weights are widened when it is called and given
    back when it has answered, so this is for inference, and once for a network.
    """
    for buffer in network.buffers():
        if buffer.is_floating_point():
            buffer.data = buffer.data.to(dtype)
    for part in _parts(network):
        if type(part) is nn.Embedding:
            # The rows that it has found are enough, of what is often the largest table.
            part.register_forward_hook(lambda _, __, found: found.to(dtype))
        else:
            widened = _Widened(part, dtype)
            part.register_forward_pre_hook(widened.enter)
            part.register_forward_hook(widened.leave)


class _Widened:
    """A part's weights, in another number format while it computes."""

    def __init__(self, part: nn.Module, dtype: torch.dtype) -> None:
        self.part = part
        self.dtype = dtype
        self.stored: dict[nn.Parameter, torch.Tensor] = {}

    def enter(self, *_: Any) -> None:
        for parameter in self.part.parameters():
            self.stored[parameter] = parameter.data
            parameter.data = parameter.data.to(self.dtype)

    def leave(self, *_: Any) -> None:
        for parameter, stored in self.stored.items():
            parameter.data = stored
        self.stored.clear()


def _parts(module: nn.Module) -> Iterator[nn.Module]:
    """The largest modules that hold no list of layers."""
    if not any(isinstance(inner, nn.ModuleList) for inner in module.modules()):
        yield module
        return
    for child in module.children():
        yield from _parts(child)
