"""Zeros that a model has for a purpose, kept through whatever else happens to its weights."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from compressed_tensors.utils import patch_attr, update_offload_parameter
from transformers import PreTrainedModel

from llmrecipe.engines.compression.oneshot import linear_layers, ours
from llmrecipe.engines.models import folders
from llmrecipe.errors import StageError


@contextmanager
def kept_by_gptq() -> Iterator[None]:
    """Meanwhile, GPTQ leaves weights zero that are: else what corrects the error of other columns would move them.

    Zero is on the grid of every format, also where that is asymmetric, so nothing else moves them: rounding takes them
    for what they are, and evening out multiplies. What they would have corrected stays uncorrected.
    """
    base = ours("fallbacks").base
    rounded = base.quantize_weight

    def with_zeros(weights: Any, **options: Any) -> Any:
        # Before: the weights are worked on in place.
        are_zero = weights == 0
        result, *rest = rounded(weights=weights, **options)
        return result.masked_fill_(are_zero, 0), *rest

    with patch_attr(base, "quantize_weight", with_zeros):
        yield


def refuse_lost(source: Path, directory: Path) -> None:
    """Refuse a model in which a weight isn't zero that is zero in the one it was made from, as both are stored.

    Args:
        source: a sparse model artifact.
        directory: a model artifact that was made from it, with the same layers but for what is above the body, if it
            predicts something else.

    Raises:
        StageError: there is such a weight in a linear layer other than the output layer.
    """
    both: list[Any] = [folders.load_model(each) for each in (source, directory)]
    if type(both[0]) is not type(both[1]):
        both = [model.base_model for model in both]
    before, made = (linear_layers(model) for model in both)
    lost = {
        name: count
        for name, layer in before.items()
        if name in made and (count := int((made[name].weight[layer.weight == 0] != 0).sum()))
    }
    if lost:
        name, count = next(iter(lost.items()))
        raise StageError(
            f"{directory}: {sum(lost.values())} weights that are zero in {source} aren't any more, {count} of them in "
            f"{name}; please report it"
        )


def make_plain(model: PreTrainedModel) -> None:
    """Give every zero of the linear layers the same bits: none is -0.0."""
    for layer in linear_layers(model).values():
        weight = layer.weight.data
        # Also where it is kept elsewhere than it is computed with.
        update_offload_parameter(layer, "weight", weight.masked_fill(weight == 0, 0))


def share_of_zeros(layers: Iterable[torch.nn.Linear]) -> float:
    """Share of the weights of linear layers that are zero."""
    weights = [layer.weight for layer in layers]
    return sum(int((weight == 0).sum()) for weight in weights) / sum(weight.numel() for weight in weights)
