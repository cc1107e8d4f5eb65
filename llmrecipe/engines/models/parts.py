"""Networks that compute in float32 one part at a time, whatever their weights are stored in."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn


def compute_in_float32(network: nn.Module) -> None:
    """Let `network` compute what it would after `network.float()`, with no more than one part's weights in float32.

    A part is a layer, or what comes before and after the layers. Its weights are widened when it is called and given
    back when it has answered, so this is for inference.
    """
    for buffer in network.buffers():
        if buffer.is_floating_point():
            buffer.data = buffer.data.float()
    for part in _parts(network):
        widened = _Widened(part)
        part.register_forward_pre_hook(widened.enter)
        part.register_forward_hook(widened.leave)


class _Widened:
    """A part's weights, in float32 while it computes."""

    def __init__(self, part: nn.Module) -> None:
        self.part = part
        self.stored: dict[nn.Parameter, torch.Tensor] = {}

    def enter(self, *_: Any) -> None:
        for parameter in self.part.parameters():
            self.stored[parameter] = parameter.data
            parameter.data = parameter.data.float()

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
