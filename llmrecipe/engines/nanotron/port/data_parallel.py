"""Gradients that data-parallel ranks add up in buckets: the same buckets in every step, and each one waited for."""

from typing import Any

import torch
from nanotron.optim import gradient_accumulator
from torch.nn.parallel import DistributedDataParallel

_accumulation_hook = gradient_accumulator.get_fp32_accum_hook


def keep_buckets(model: torch.nn.Module) -> None:
    """Let `model` add up its gradients in the same buckets in every step of every launch.

    torch puts the gradients into other buckets after the first step of a process. From three ranks on, a gradient's
    place in its bucket decides in which order the ranks' parts are added, so a resumed run would differ
    in the last bit.
    """
    if isinstance(model, DistributedDataParallel):
        # Forgets the order in which the gradients came, before torch rearranges the buckets after it.
        model.register_forward_pre_hook(lambda *_: model.reducer._reset_state())


def get_fp32_accum_hook(**options: Any) -> Any:
    """nanotron's hook that adds up gradients in float32, with a handle that waits for every bucket of a step.

    nanotron keeps the handle of the last bucket alone, and reads the others while they may still be on their way.
    """
    hook, handles = _accumulation_hook(**options), _Handles()

    def keep_every_handle(state: Any, bucket: torch.distributed.GradBucket) -> torch.futures.Future[torch.Tensor]:
        future = hook(state, bucket)
        handles.pending.append(state.accumulator.fp32_grads_allreduce_handle)
        state.accumulator.fp32_grads_allreduce_handle = handles
        return future

    return keep_every_handle


class _Handles:
    """The handles of a step's buckets, as one."""

    def __init__(self) -> None:
        self.pending: list[torch.futures.Future] = []

    def wait(self) -> None:
        for handle in self.pending:
            handle.wait()
        self.pending.clear()
