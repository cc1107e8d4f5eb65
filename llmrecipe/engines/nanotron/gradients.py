"""The gradients of a step once every rank has added up its part: their norm, and clipping."""

import torch
from nanotron import distributed as dist
from nanotron.models import NanotronModel
from nanotron.optim.gradient_accumulator import GradientAccumulator
from nanotron.parallel import ParallelContext


def gradients_of(network: NanotronModel, accumulator: GradientAccumulator | None) -> dict[str, torch.Tensor]:
    """The gradients on this rank by the name of their weight; in float32 if they are accumulated in it."""
    return {
        name: parameter.grad if accumulator is None else accumulator.get_grad_buffer(name)
        for name, parameter in network.get_named_params_with_correct_tied()
    }


def global_norm(network: NanotronModel, gradients: dict[str, torch.Tensor], context: ParallelContext) -> torch.Tensor:
    """The Euclidean norm of the gradient of the whole model.

    nanotron's own measures and clips at once, after which one broken gradient has spoilt all.
    """
    rank = dist.get_rank(context.world_pg)
    # A weight that several ranks hold counts once.
    counted = [
        gradients[name]
        for name, parameter in network.get_named_params_with_correct_tied()
        if not parameter.is_tied or parameter.get_tied_info().global_ranks[0] == rank
    ]
    # On a CPU if there is none to count.
    square = torch.nn.utils.get_total_norm(counted).square().to(next(iter(gradients.values())).device)
    if context.mp_pg.size() > 1:
        dist.all_reduce(square, group=context.mp_pg)
    return square.sqrt()


def clip(gradients: dict[str, torch.Tensor], norm: torch.Tensor, limit: float) -> None:
    """Scale the gradients down to a global norm of `limit`, if theirs is larger."""
    torch._foreach_mul_(list(gradients.values()), (limit / (norm + 1e-6)).clamp(max=1.0))
