"""What each linear layer of a quantized model does to what its block hands on."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import attrs
import torch
from torch import nn
from transformers import PreTrainedModel

from llmrecipe.progress import told


@attrs.define
class LayerError:
    """How far a layer is from the one that it was made from."""

    output_error: float = 0.0
    """Of what it gives: the square of the difference over the square of what is right, in the mean over tokens."""

    stream_error: float = 0.0
    """The same of what its block hands on, if this layer alone is exchanged."""


@torch.inference_mode()
def layer_errors(
    parent: PreTrainedModel, model: PreTrainedModel, batches: Iterable[torch.Tensor]
) -> dict[str, LayerError]:
    """The error of each layer of `model` that its blocks have, by name, on what `parent` reads there.

    Args:
        parent: what the model was made from, on the same device.
        model: the same network, with other linear layers.
        batches: token ids `int64[sequences, length]` each.
    """
    errors: dict[str, LayerError] = {}
    count = 0
    # A block is called again and again on the same tokens.
    parent.config.use_cache = False
    with _compared(parent, model, errors):
        for batch in told(list(batches), "measuring layers"):
            parent.base_model(input_ids=batch)
            count += batch.numel()
    for error in errors.values():
        error.output_error /= count
        error.stream_error /= count
    return errors


def bits_of(layer: Any) -> int:
    """Bits of a weight of a linear layer, without its share of a scale."""
    scheme = getattr(layer, "quantization_scheme", None)
    if scheme is not None and scheme.weights is not None:
        return int(scheme.weights.num_bits)
    return int(8 * layer.weight.element_size())


@contextmanager
def _compared(parent: PreTrainedModel, model: PreTrainedModel, errors: dict[str, LayerError]) -> Iterator[None]:
    """Meanwhile, a pass through `parent` adds to `errors`, token by token."""
    blocks = {name: block for name, block in parent.named_modules() if type(block).__name__ in _block_names(parent)}
    handles = []
    for name, block in blocks.items():
        others = {
            inner: model.get_submodule(f"{name}.{inner}")
            for inner, layer in block.named_modules()
            if isinstance(layer, nn.Linear)
        }
        for inner in others:
            errors[f"{name}.{inner}"] = LayerError()
        mine = {inner: errors[f"{name}.{inner}"] for inner in others}
        handles.append(block.register_forward_hook(_Exchange(others, mine), with_kwargs=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _block_names(model: PreTrainedModel) -> set[str]:
    return set(model._no_split_modules or ())


@attrs.frozen
class _Exchange:
    """A hook of a block: exchanges its layers one by one."""

    others: Mapping[str, nn.Module]
    """What a layer is exchanged for, by its name in the block."""

    errors: Mapping[str, LayerError]

    def __call__(self, block: nn.Module, args: tuple, kwargs: dict[str, Any], output: Any) -> None:
        right = _first(output)
        for name, other in self.others.items():
            error = self.errors[name]
            holder, _, last = name.rpartition(".")
            where, layer = block.get_submodule(holder), block.get_submodule(name)

            def measured(given: torch.Tensor, layer: Any = layer, other: Any = other, error: LayerError = error) -> Any:
                # One that is expanded to bfloat16 computes in it.
                found = other(given.to(other.weight.dtype)).to(given.dtype)
                error.output_error += _error(found, layer(given))
                return found

            setattr(where, last, _Called(measured))
            # Not the block itself, whose hook this is.
            found = _first(block.forward(*args, **kwargs))
            setattr(where, last, layer)
            error.stream_error += _error(found, right)


class _Called(nn.Module):
    """A function in the place of a layer."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, given: torch.Tensor) -> Any:
        return self.function(given)


def _first(output: Any) -> torch.Tensor:
    """The hidden states among what a block hands on."""
    found: torch.Tensor = output[0] if isinstance(output, tuple) else output
    return found


def _error(found: torch.Tensor, right: torch.Tensor) -> float:
    """The relative error of each token, summed."""
    found, right = found.double().flatten(0, -2), right.double().flatten(0, -2)
    lengths = right.square().sum(-1)
    # A token of which nothing is to be handed on has no direction to be wrong in.
    return float(((found - right).square().sum(-1) / lengths.clamp_min(torch.finfo(torch.float64).tiny)).sum())
