"""Linear layers with as many zeros as are asked for."""

import logging
from collections.abc import Mapping

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from llmrecipe.engines.compression import allocation
from llmrecipe.engines.compression.oneshot import compress, layers_of, linear_layers, linears_in, ours
from llmrecipe.engines.compression.zeros import make_plain
from llmrecipe.errors import StageError
from llmrecipe.recipe.prune import Magnitude, Measured, Pattern, PerLayer, Sparse

log = logging.getLogger(__name__)

Amounts = Mapping[str, float | Pattern]
"""Of each linear layer, by name, the share of its weights that becomes zero, or the pattern that its rows follow."""

_COLUMNS = 128
"""SparseGPT chooses from so many columns at once, and rounds to a whole weight each time."""


def make_sparse(
    method: Sparse,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    calibration: torch.Tensor,
    device: torch.device,
    *,
    keeps_zeros: bool,
) -> tuple[str, ...]:
    """Make weights of the linear layers of `model` zero in place, all but the output layer's; it is on the CPU.

    Afterwards it computes on `device`.

    Args:
        method: how many, and which.
        model: any that transformers loads.
        tokenizer: its tokenizer.
        calibration: token ids `int64[samples, sequence_length]`; no rows for a way that reads none.
        device: where it is computed.
        keeps_zeros: whether the model is sparse already, and what is zero stays so.

    Returns:
        What a reader of the model's numbers should know.

    Raises:
        StageError: llmcompressor refuses the model, it has all the zeros that are asked for, SparseGPT failed for every
            layer, or as `refuse_other`.
    """
    before = count_zeros(model)
    notes: tuple[str, ...] = ()
    sparsity = method.sparsity
    if isinstance(sparsity, Measured):
        sparsity = allocation.measured(method, model, calibration, device)
        notes = (f"sparsity of each layer, by the error of its output: {', '.join(map(str, sparsity.shares))}",)
        log.info("%s", notes[0])
    asked = amounts(model, sparsity)
    notes += _make_sparse(method, model, tokenizer, calibration, device, _more(asked, model, before), keeps_zeros)
    make_plain(model)
    refuse_other(model, asked, before)
    return notes


def _make_sparse(
    method: Sparse,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    calibration: torch.Tensor,
    device: torch.device,
    asked: Amounts,
    keeps_zeros: bool,
) -> tuple[str, ...]:
    layers = linear_layers(model)
    if isinstance(method, Magnitude):
        for name, amount in asked.items():
            weight = layers[name].weight.data
            weight.masked_fill_(smallest(weight, amount), 0)
        # llmcompressor lets what it has changed compute there by itself.
        model.to(device)
        return ()
    ways = ours("sparsifying")
    recipe = [ways.modifier(method, asked, keeps_zeros=keeps_zeros)]
    with ways.unreached_kept():
        found = compress(model, tokenizer, recipe, calibration, device, aim=f"prune this model by {method}")
    failed = sum(count for message, count in found.warnings.items() if message.startswith(ways.FAILED))
    if failed >= len(asked):
        raise StageError(
            f"{method} failed for every layer: the calibration text is too little or too repetitive for its "
            "dampening_frac; raise it, calibrate on more text or another, or use prune.Wanda"
        )
    return found.notes


def amounts(model: PreTrainedModel, sparsity: float | Pattern | PerLayer) -> dict[str, float | Pattern]:
    """What is asked for of each linear layer but the output layer, by name."""
    if not isinstance(sparsity, PerLayer):
        return dict.fromkeys(linear_layers(model), sparsity)
    shares = {
        linear: share
        for layer, share in zip(layers_of(model), sparsity.shares, strict=True)
        for linear in linears_in(layer)
    }
    return {name: shares.get(linear, sparsity.share) for name, linear in linear_layers(model).items()}


def _more(asked: Amounts, model: PreTrainedModel, before: Mapping[str, int]) -> dict[str, float | Pattern]:
    """What is asked for where it is more than the zeros that there are: llmcompressor refuses to do less.

    Raises:
        StageError: nowhere.
    """
    layers = linear_layers(model)
    more = {
        name: amount
        for name, amount in asked.items()
        if isinstance(amount, Pattern) or amount * layers[name].weight.numel() > before[name]
    }
    if not more:
        raise StageError("every layer has as many zeros as are asked for already; ask for more")
    return more


def smallest(weights: torch.Tensor, sparsity: float | Pattern) -> torch.Tensor:
    """Which of the weights are the smallest of their row, or of their group: `bool[rows, columns]`.

    Of each row as many, as by Wanda, from which this differs by the measure alone: no output loses all of its inputs.
    A Llama of 135 million parameters, half of whose weights are zero so, has a perplexity of 295 on the reference of
    Python, and of 417 with the smallest of each matrix in their place. Of equal ones, the first.

    Args:
        weights: `[rows, columns]`.
        sparsity: share of each row, rounded down to whole weights; or a pattern whose groups divide the columns.
    """
    if isinstance(sparsity, Pattern):
        return _smallest(weights.unflatten(1, (-1, sparsity.of)), sparsity.of - sparsity.keep).flatten(1)
    return _smallest(weights, int(weights.shape[1] * sparsity))


def _smallest(weights: torch.Tensor, count: int) -> torch.Tensor:
    chosen = weights.abs().argsort(dim=-1, stable=True)[..., :count]
    return torch.zeros_like(weights, dtype=torch.bool).scatter_(-1, chosen, True)


def refuse_other(model: PreTrainedModel, asked: Amounts, before: Mapping[str, int]) -> None:
    """Refuse a model that isn't as sparse as was asked for, in each of its linear layers but the output layer.

    Args:
        model: the pruned one.
        asked: as `amounts`.
        before: as `count_zeros` of the model before: those count, where they are more than were asked for.

    Raises:
        StageError: a layer has too few zeros, too many, or a group of a pattern that has too few.
    """
    for name, layer in linear_layers(model).items():
        amount = asked[name]
        share = amount.share if isinstance(amount, Pattern) else amount
        is_zero = layer.weight == 0
        rows, columns = is_zero.shape
        found, wanted = int(is_zero.sum()), share * is_zero.numel()
        # In each row, or each block of columns, a part of a weight is none or a whole one.
        rounding = max(rows, -(-columns // _COLUMNS))
        is_met = wanted - rounding <= found <= wanted + rounding + before[name]
        if isinstance(amount, Pattern):
            groups = is_zero.unflatten(1, (-1, amount.of)).sum(-1)
            is_met = is_met and bool((groups >= amount.of - amount.keep).all())
        if not is_met:
            raise StageError(
                f"{name}: {found} of its {is_zero.numel()} weights are zero, which is not what {amount} asks for "
                f"({wanted:.0f}); please report it"
            )


def count_zeros(model: PreTrainedModel) -> dict[str, int]:
    """Weights that are zero, by linear layer, all but the output layer."""
    return {name: int((layer.weight == 0).sum()) for name, layer in linear_layers(model).items()}
