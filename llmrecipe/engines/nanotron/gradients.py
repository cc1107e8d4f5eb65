"""The gradients of a step once every rank has added up its part: their norm, and clipping."""

import torch
from nanotron import distributed as dist
from nanotron.models import NanotronModel
from nanotron.optim.gradient_accumulator import GradientAccumulator
from nanotron.parallel import ParallelContext

from llmrecipe.engines.nanotron.port.zero import Exchanging


def gradients_of(network: NanotronModel, accumulator: GradientAccumulator | None) -> dict[str, torch.Tensor]:
    """The gradients on this rank by the name of their weight; in float32 if they are accumulated in it.

    Where the replicas share them, these are the parts of this one.
    """
    if isinstance(accumulator, Exchanging):
        return accumulator.own()
    return {
        name: parameter.grad if accumulator is None else accumulator.get_grad_buffer(name)
        for name, parameter in network.get_named_params_with_correct_tied()
    }


def global_norm(
    network: NanotronModel,
    gradients: dict[str, torch.Tensor],
    accumulator: GradientAccumulator | None,
    context: ParallelContext,
) -> torch.Tensor:
    """The Euclidean norm of the gradient of the whole model.

    nanotron's own measures and clips at once, after which one broken gradient has spoilt all.
    """
    rank = dist.get_rank(context.world_pg)
    named = list(network.get_named_params_with_correct_tied())
    # A weight that several ranks hold counts once.
    counted = [
        gradients[name]
        for name, parameter in named
        if name in gradients and (not parameter.is_tied or parameter.get_tied_info().global_ranks[0] == rank)
    ]
    # On a CPU if there is none to count.
    square = torch.nn.utils.get_total_norm(counted).square().to(named[0][1].device)
    for group in (context.mp_pg, context.dp_pg) if isinstance(accumulator, Exchanging) else (context.mp_pg,):
        if group.size() > 1:
            dist.all_reduce(square, group=group)
    return square.sqrt()


def clip(gradients: dict[str, torch.Tensor], norm: torch.Tensor, limit: float) -> None:
    """Scale the gradients down to a global norm of `limit`, if theirs is larger."""
    torch._foreach_mul_(list(gradients.values()), (limit / (norm + 1e-6)).clamp(max=1.0))
