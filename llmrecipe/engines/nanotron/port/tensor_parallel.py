"""Tensor-parallel layers that compute what they can while their ranks exchange the rest."""

from typing import Any

import torch
from nanotron import distributed as dist
from nanotron.parallel.tensor_parallel import functional
from nanotron.parallel.tensor_parallel.distributed_differentiable_primitives import differentiable_reduce_scatter_sum
from nanotron.parallel.tensor_parallel.enum import TensorParallelLinearMode
from nanotron.parallel.tensor_parallel.nn import TensorParallelColumnLinear, TensorParallelRowLinear


def overlap(network: torch.nn.Module) -> None:
    """Let the linear layers of `network` communicate while they compute.

    A row-parallel layer has something to compute meanwhile only if its output is scattered. nanotron can't be built
    with its own option in the other mode, and its backward pass is wrong in this one: it multiplies a part of the
    output's gradient by a rank's weights and gathers the products, which belong to the weights of other ranks.
    """
    functional._RowLinearAsyncCommunication = RowLinear
    for module in network.modules():
        if isinstance(module, TensorParallelColumnLinear):
            module.async_communication = True
        elif isinstance(module, TensorParallelRowLinear):
            module.async_communication = module.mode is TensorParallelLinearMode.REDUCE_SCATTER


class RowLinear(torch.autograd.Function):
    """`y = x Wᵀ` over columns of `W` that the ranks share, summed over the ranks and scattered along its rows.

    Shapes: `x [length, …, columns of this rank]`, `W [out, columns of this rank]`, `y [length / ranks, …, out]`.
    """

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, group: dist.ProcessGroup, _: Any
    ) -> torch.Tensor:
        ctx.save_for_backward(x, weight)
        ctx.group, ctx.has_bias = group, bias is not None
        return differentiable_reduce_scatter_sum(torch.nn.functional.linear(x, weight, bias), group=group)

    @staticmethod
    def backward(ctx: Any, own: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        own = own.contiguous()
        rows = own.shape[0]
        start = dist.get_rank(ctx.group) * rows
        whole = own.new_empty(rows * ctx.group.size(), *own.shape[1:])
        gathering = dist.all_gather_into_tensor(whole, own, group=ctx.group, async_op=True)
        x_grad = torch.empty_like(x, memory_format=torch.contiguous_format)
        torch.matmul(own, weight, out=x_grad[start : start + rows])
        gathering.wait()
        for part in (slice(start), slice(start + rows, None)):
            if whole[part].numel():
                torch.matmul(whole[part], weight, out=x_grad[part])
        flat = whole.flatten(0, -2)
        return x_grad, flat.t() @ x.flatten(0, -2), flat.sum(0) if ctx.has_bias else None, None, None
