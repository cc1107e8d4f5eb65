"""Models that ranks share: each rank has some rows of every weight, and of what belongs to it (FSDP, Zhao et al. 2023).

torch's `fully_shard` does it, without transformers' Trainer: what that is told by `TrainingArguments(fsdp=True)`,
accelerate 1.15 does on GPUs alone, and leaves out on CPUs without a word.
"""

import warnings
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers import PreTrainedModel

from llmrecipe.engines.finetuning.learning import is_quantized, layers_of
from llmrecipe.engines.models.stored import on_disk
from llmrecipe.errors import StageError


def share(model: PreTrainedModel, device: torch.device, *parts: nn.Module, is_half: bool) -> None:
    """Let ranks share a model: they gather a layer when it computes, and what is outside of layers for a whole pass.

    Args:
        model: whole on each rank, on the CPU; afterwards each has its rows on its device.
        device: where this rank computes.
        parts: modules of it that compute outside of its own forward pass.
        is_half: whether layers multiply in bfloat16: then ranks send each other that, too, and no rank keeps what
            autocast would make of whole weights until the backward pass.

    Raises:
        StageError: it has no list of layers, or is quantized.
    """
    if is_quantized(model):
        # As they compute, its layers exchange the data of a parameter that is the ranks' own, which is gone then.
        raise StageError("parallelism.zero_stage: 3 has ranks share models that aren't quantized alone; use 0")
    # Nothing here writes into what a model gives.
    warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view tensor")
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    # What layers hand on stays as it is without sharing.
    policy = MixedPrecisionPolicy(
        param_dtype=torch.bfloat16 if is_half else None, reduce_dtype=torch.float32, cast_forward_inputs=False
    )
    for module in (*layers_of(model), *parts):
        # So do norms, which autocast leaves in float32; on CPUs they refuse other weights.
        norms = [each for each in module.modules() if _is_norm(each)] if is_half else []
        if norms:
            fully_shard(norms, mesh=mesh)
        fully_shard(module, mesh=mesh, mp_policy=policy)
    # Else it would stay gathered after a pass that isn't followed by one backward, as the teacher's and those on
    # held-out text.
    fully_shard(model, mesh=mesh, reshard_after_forward=True)
    # What accelerate leaves alone: it would make replicas of it.
    model._is_accelerate_prepared = True


def _is_norm(module: nn.Module) -> bool:
    """Whether it has weights of its own, and multiplies by no matrix."""
    has_own = any(True for _ in module.parameters(recurse=False))
    return has_own and all(weight.dim() == 1 for weight in module.parameters())


def placed_like(tensor: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """What is as large as a weight, where that is; of one that ranks share, the rows that this rank has."""
    if not isinstance(weight, DTensor):
        return tensor.to(weight.device)
    # Each rank has the whole, so nothing is sent. Cloned, since it would hold on to the whole.
    return distribute_tensor(tensor, weight.device_mesh, weight.placements, src_data_rank=None).clone()


def gathered(tensor: torch.Tensor, folder: Path) -> torch.Tensor:
    """The whole of what ranks share, kept in a file without a name in `folder`; of what they don't, a copy on the CPU.

    Every rank has to call this, or `gather`, for the same tensors in the same order.
    """
    if isinstance(tensor, DTensor):
        return on_disk(gather(tensor), folder)
    return tensor.detach().cpu().contiguous()


@torch.no_grad()
def gather(tensor: torch.Tensor) -> torch.Tensor:
    """The whole of what ranks share; on every rank, for another that writes it down."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
