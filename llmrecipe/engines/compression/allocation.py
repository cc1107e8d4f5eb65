"""How sparse each layer of a network becomes where that is measured: those that lose least bear most."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import attrs
import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel

from llmrecipe.engines.compression.oneshot import batch_size, layers_of, linears_in
from llmrecipe.engines.compression.zeros import share_of_zeros
from llmrecipe.progress import told
from llmrecipe.recipe.prune import Magnitude, PerLayer, Sparse, reach

_MEASURED = 5
"""Shares at which a layer is measured, evenly spaced, the lowest and the highest among them."""

_STEPS = 40
"""Steps from the lowest share to the highest; even, so that the mean is one of them."""


def measured(method: Sparse, model: PreTrainedModel, calibration: torch.Tensor, device: torch.device) -> PerLayer:
    """A share for each layer: their mean is that of `method`, and the sum of the errors of their outputs the least.

    Args:
        method: how many weights become zero, and which; for SparseGPT's, Wanda's stand in.
        model: on the CPU, where its weights stay; a layer's are copied to the device while it computes.
        calibration: token ids `int64[samples, sequence_length]`, at least one.
        device: where it is computed.
    """
    width = reach(method.share)
    points = [method.share + width * offset for offset in np.linspace(-1, 1, _MEASURED)]
    errors = output_errors(model, calibration, device, points, reads_inputs=not isinstance(method, Magnitude))
    zeros = np.array([share_of_zeros(linears_in(layer)) for layer in layers_of(model)])
    free = np.floor((zeros - points[0]) / (2 * width) * _STEPS).clip(0, _STEPS)
    steps = allocated(errors, free)
    shares = method.share + width * (2 * steps / _STEPS - 1)
    return PerLayer(shares=tuple(float(f"{share:.6g}") for share in shares))


def allocated(errors: np.ndarray, free: np.ndarray) -> np.ndarray:
    """How many of `_STEPS` steps each layer goes, half of them in the mean, so that the sum of the errors is least.

    Between the shares at which it was measured, the slope of an error changes evenly. Steps that cost least are taken
    first; none costs less than an earlier one of its layer, which is what errors do but for noise.

    Args:
        errors: of each layer at evenly spaced shares, from before the first step to after the last:
            `float[layers, shares]`.
        free: steps of each layer that cost nothing, because so many weights are zero already: `[layers]`.

    Returns:
        `int[layers]`.
    """
    slopes = np.diff(errors, axis=1)
    # The middle of each step, counted from the middle of the first slope.
    middles = (np.arange(_STEPS) + 0.5) / _STEPS * slopes.shape[1] - 0.5
    costs = np.array([np.interp(middles, np.arange(slopes.shape[1]), slope) for slope in slopes])
    costs[np.arange(_STEPS) < free[:, None]] = 0
    costs = np.maximum.accumulate(costs, axis=1)
    layers, steps = np.indices(costs.shape)
    # Of equal ones, the first steps of all layers come first, so layers that are alike become alike.
    order = np.lexsort((layers.ravel(), steps.ravel(), costs.ravel()))
    return np.bincount(layers.ravel()[order[: costs.size // 2]], minlength=len(errors))


# Not in inference mode, in which weights that are moved can never learn again.
@torch.no_grad()
def output_errors(
    model: PreTrainedModel,
    calibration: torch.Tensor,
    device: torch.device,
    shares: Sequence[float],
    *,
    reads_inputs: bool,
) -> np.ndarray:
    """How far what a layer hands on is from what is right, if these shares of the weights of it alone are zero.

    Of each token the square of the difference over the square of what is right; the mean over tokens.

    Args:
        model: on the CPU, where it is afterwards.
        calibration: token ids `int64[samples, sequence_length]`, at least one.
        device: where it is computed.
        shares: of each row, those that are smallest.
        reads_inputs: whether a weight counts for more by the norm of its input (Sun et al. 2024).

    Returns:
        `float64[layers, shares]`.
    """
    body, layers = model.base_model, layers_of(model)
    batches = calibration.split(batch_size(calibration))
    errors = torch.zeros(len(layers), len(shares), dtype=torch.float64, device=device)
    with _layer_by_layer(body, layers, device):
        norms = _input_norms(body, layers, batches, device) if reads_inputs else {}
        hooks = []
        for layer, into in zip(layers, errors, strict=True):
            cuts = [_Cut.of(linear, norms.get(linear), shares, device) for linear in linears_in(layer)]
            # Before its weights leave the device.
            hooks.append(layer.register_forward_hook(_Trial(cuts, into), with_kwargs=True, prepend=True))
        for batch in told(batches, "measuring layers"):
            # A layer is called again and again on the same tokens.
            body(input_ids=batch.to(device), use_cache=False)
        for hook in hooks:
            hook.remove()
    found: np.ndarray = (errors / calibration.numel()).cpu().numpy()
    return found


@contextmanager
def _layer_by_layer(body: nn.Module, layers: Sequence[nn.Module], device: torch.device) -> Iterator[None]:
    """Meanwhile, the weights of a layer are on the device as it computes, and those outside of layers all the time."""
    of_layers = {id(tensor) for layer in layers for tensor in _tensors(layer)}
    outside = [(tensor, tensor.data) for tensor in _tensors(body) if id(tensor) not in of_layers]
    # What it reads from files stays so: nothing is copied back.
    kept = {layer: [(tensor, tensor.data) for tensor in _tensors(layer)] for layer in layers}

    def lend(layer: nn.Module, *_: Any) -> None:
        for tensor, data in kept[layer]:
            tensor.data = data.to(device)

    def take_back(layer: nn.Module, *_: Any) -> None:
        for tensor, data in kept[layer]:
            tensor.data = data

    hooks = [layer.register_forward_pre_hook(lend) for layer in layers]
    hooks += [layer.register_forward_hook(take_back) for layer in layers]
    for tensor, data in outside:
        tensor.data = data.to(device)
    yield
    for tensor, data in outside:
        tensor.data = data
    for hook in hooks:
        hook.remove()


def _tensors(module: nn.Module) -> Iterator[torch.Tensor]:
    yield from module.parameters()
    yield from module.buffers()


def _input_norms(
    body: nn.Module, layers: Sequence[nn.Module], batches: Sequence[torch.Tensor], device: torch.device
) -> Mapping[nn.Linear, torch.Tensor]:
    """Of each linear layer the norms of its inputs, over all tokens: `[columns]`."""
    squares = {
        linear: torch.zeros(linear.in_features, device=device) for layer in layers for linear in linears_in(layer)
    }

    def added(linear: Any, given: tuple[torch.Tensor, ...]) -> None:
        squares[linear].add_(given[0].float().flatten(0, -2).square().sum(0))

    hooks = [linear.register_forward_pre_hook(added) for linear in squares]
    for batch in told(batches, "measuring inputs"):
        body(input_ids=batch.to(device), use_cache=False)
    for hook in hooks:
        hook.remove()
    return {linear: square.sqrt() for linear, square in squares.items()}


@attrs.frozen
class _Cut:
    """A linear layer whose smallest weights can be left out."""

    linear: nn.Linear

    norms: torch.Tensor
    """What each column's weights are multiplied by to tell how large they are."""

    bounds: torch.Tensor
    """By share, the largest of each row that is left out: `[rows, shares]`."""

    @classmethod
    def of(cls, linear: nn.Linear, norms: torch.Tensor | None, shares: Sequence[float], device: torch.device) -> "_Cut":
        norms = torch.ones(linear.in_features, device=device) if norms is None else norms
        counts = [int(linear.in_features * share) for share in shares]
        # Before the smallest, what is less than any.
        ordered = nn.functional.pad(
            (linear.weight.to(device).abs() * norms).sort(dim=1).values, (1, 0), value=-math.inf
        )
        return cls(linear, norms, ordered[:, counts])

    def weight(self, share: int) -> torch.Tensor:
        """Its weights without the smallest; `share` is a place among the shares."""
        weight = self.linear.weight.data
        return weight.masked_fill(weight.abs() * self.norms <= self.bounds[:, share, None], 0)


@attrs.frozen
class _Trial:
    """A hook of a layer: computes it again with fewer and fewer weights."""

    cuts: Sequence[_Cut]

    errors: torch.Tensor
    """By share, to which those of all tokens are added."""

    def __call__(self, layer: nn.Module, args: tuple, kwargs: dict[str, Any], output: Any) -> None:
        right = _hidden(output)
        # A token of which nothing is handed on has no direction to be wrong in.
        lengths = right.square().sum(-1).clamp_min(torch.finfo(torch.float64).tiny)
        for share in range(len(self.errors)):
            with self._pruned(share):
                # Not the layer itself, whose hook this is.
                found = _hidden(layer.forward(*args, **kwargs))
            self.errors[share] += ((found - right).square().sum(-1) / lengths).sum()

    @contextmanager
    def _pruned(self, share: int) -> Iterator[None]:
        """Meanwhile, the layer has the weights that are left."""
        whole = [cut.linear.weight.data for cut in self.cuts]
        for cut in self.cuts:
            cut.linear.weight.data = cut.weight(share)
        yield
        for cut, weight in zip(self.cuts, whole, strict=True):
            cut.linear.weight.data = weight


def _hidden(output: Any) -> torch.Tensor:
    """The hidden states among what a layer hands on, for sums without rounding."""
    found: torch.Tensor = output[0] if isinstance(output, tuple) else output
    return found.double()
