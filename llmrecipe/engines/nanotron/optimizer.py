"""The recipe's optimizer in place of nanotron's own, which knows AdamW alone and one weight decay for every weight."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from nanotron import distributed as dist
from nanotron import helpers
from nanotron.optim.named_optimizer import NamedOptimizer

from llmrecipe.engines.nanotron import muon
from llmrecipe.engines.nanotron.port import zero
from llmrecipe.engines.runs.optimizer import build
from llmrecipe.errors import StageError
from llmrecipe.recipe.optimizer import SGD, AdamW, Muon, NoDecay
from llmrecipe.sections import TrainSection

Known = AdamW | Muon | SGD
"""The optimizers of this engine."""

_build_with_adamw = helpers.init_optimizer_and_grad_accumulator

NamedParameters = list[tuple[str, torch.Tensor]]


def init_optimizer_and_grad_accumulator(
    section: TrainSection, is_frozen: Callable[[str], bool], *, model: Any, parallel_context: Any, **arguments: Any
) -> tuple[Any, Any]:
    """nanotron's builder with the recipe's optimizer; weights whose name `is_frozen` don't decay either.

    Raises:
        StageError: this engine doesn't know it.
    """
    optimizer = section.training.optimizer
    if not isinstance(optimizer, Known):
        raise StageError(f"training.optimizer: {type(optimizer).__name__} is none that this engine knows")

    weights = list(getattr(model, "module", model).get_named_params_with_correct_tied())
    hidden: dict[str, muon.Matrix] = {}
    if isinstance(optimizer, Muon):
        learned = ((name, parameter) for name, parameter in weights if not is_frozen(name))
        hidden = muon.matrices_of(learned, parallel_context.tp_pg)

    def named_optimizer(named_params_or_groups: Iterable[Any], **_: Any) -> NamedOptimizer:
        # nanotron calls this last, with pairs of a weight's name and the tensor to optimize: a flat shard under ZeRO, a
        # float32 copy where gradients accumulate in float32.
        named = _named_parameters(named_params_or_groups)
        others = [pair for pair in named if pair[0] not in hidden]
        groups = _groups(others, optimizer, is_frozen)
        if not isinstance(optimizer, Muon):
            return NamedOptimizer(groups, optimizer_builder=lambda groups: build(optimizer, groups))
        own = [pair for pair in named if pair[0] in hidden]
        matrices = [hidden[name] for name, _ in own]
        groups.insert(0, {"named_params": own, "weight_decay": optimizer.weight_decay})
        return NamedOptimizer(groups, optimizer_builder=lambda groups: muon.Muon(groups, optimizer, matrices))

    ours = {"NamedOptimizer": named_optimizer} | _sharing(section, weights, hidden, parallel_context.dp_pg)
    theirs = {name: getattr(helpers, name) for name in ours}
    vars(helpers).update(ours)
    try:
        return _build_with_adamw(model=model, parallel_context=parallel_context, **arguments)
    finally:
        vars(helpers).update(theirs)


def _sharing(
    section: TrainSection, weights: NamedParameters, hidden: dict[str, muon.Matrix], group: dist.ProcessGroup
) -> dict[str, type]:
    """How the replicas of `group` share the optimizer's state, as classes in the place of nanotron's."""
    training, parallelism, ranks = section.training, section.parallelism, group.size()
    sizes = {name: weight.numel() for name, weight in weights}
    owners = muon.owners(hidden, ranks)
    if parallelism.zero_stage == 0:
        return {}
    if training.precision == "float32" or ranks == 1:
        return {"ZeroDistributedOptimizer": muon.whole_matrices(sizes, owners)}
    plan = zero.Plan(
        sizes=sizes,
        owners=owners,
        shared={name for name, weight in weights if _is_shared(weight)},
        ranks=ranks,
        # Of four bytes each.
        at_least=parallelism.bucket_size_mb << 18,
    )
    accumulator = zero.accumulator(plan, group, parallelism.accumulation(training.global_batch_size))
    return {"ZeroDistributedOptimizer": zero.optimizer(plan), "FP32GradientAccumulator": accumulator}


def _is_shared(weight: Any) -> bool:
    """Whether the gradient of a weight is still to be added up with those of other ranks of its replica."""
    if not weight.is_tied:
        return False
    tied = weight.get_tied_info()
    return tied.reduce_op is not None and len(tied.global_ranks) > 1


def is_left_alone(name: str, no_decay: NoDecay) -> bool:
    """Whether weight decay leaves the weight alone that nanotron calls `name`.

    A weight that is tied to others has the name of the first of them: an output layer that of the token embedding.
    """
    *_, module, leaf = (part for part in name.split(".") if part != "pp_block")
    is_of_kind = {
        "norms": module.endswith("norm"),
        "biases": leaf == "bias",
        "embeddings": module.endswith("embedding"),
    }
    return any(is_of_kind[kind] for kind in no_decay)


def _groups(
    named_parameters: NamedParameters, optimizer: Known, is_frozen: Callable[[str], bool]
) -> list[dict[str, Any]]:
    """What decays, then what doesn't: two groups on every rank, whatever weights it has."""
    decayed: NamedParameters = []
    left_alone: NamedParameters = []
    for name, parameter in named_parameters:
        kind = left_alone if is_frozen(name) or is_left_alone(name, optimizer.no_decay) else decayed
        kind.append((name, parameter))
    return [
        {"named_params": decayed, "weight_decay": optimizer.weight_decay},
        {"named_params": left_alone, "weight_decay": 0.0},
    ]


def _named_parameters(named_params_or_groups: Iterable[Any]) -> NamedParameters:
    """The weights of nanotron's groups, which it makes under ZeRO and for float32 copies, or those that it lists."""
    return [
        pair
        for entry in named_params_or_groups
        for pair in (entry["named_params"] if isinstance(entry, dict) else [entry])
    ]
