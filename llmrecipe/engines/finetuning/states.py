"""What a distillation needs to go on: weights that learn, what the optimizer remembers, and the rows of its steps.

Nothing in a step is drawn, so there is no state of random numbers.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from llmrecipe import artifacts
from llmrecipe.engines.finetuning import optimizing
from llmrecipe.engines.finetuning.models import learning
from llmrecipe.engines.finetuning.sharing import gather, gathered
from llmrecipe.engines.runs.checkpoints import KIND, checkpoints, is_whole, keep_newest
from llmrecipe.engines.runs.state import StateFolder
from llmrecipe.errors import StageError, refusal

_WEIGHTS, _OPTIMIZER = "student.safetensors", "optimizer.safetensors"


def save(state: StateFolder, step: int, student: torch.nn.Module, optimizer: torch.optim.Optimizer, count: int) -> None:
    """Write the checkpoint of a step, whole or not at all, and keep the newest `count`.

    Raises:
        StageError: the disk is full.
    """
    try:
        with artifacts.replacing(state.checkpoint(step)) as folder:
            for file, tensors in _kept(student, optimizer).items():
                save_file({name: gathered(tensor, folder) for name, tensor in tensors.items()}, folder / file)
            artifacts.seal(folder, KIND)
    except Exception as error:
        reason = refusal(error)
        if reason is None:
            raise
        raise StageError(f"{state.checkpoints}: the checkpoint of step {step}: {reason}") from error
    keep_newest(state.checkpoints, count, lambda _: False)


def give(student: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Give this rank's part of the checkpoint that another rank writes meanwhile."""
    for tensors in _kept(student, optimizer).values():
        for tensor in tensors.values():
            gather(tensor)


def _kept(student: torch.nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Mapping[str, torch.Tensor]]:
    """What a checkpoint has, by file and name."""
    return {_WEIGHTS: learning(student), _OPTIMIZER: optimizing.state_of(optimizer)}


def newest(state: StateFolder) -> int:
    """The step of the newest whole checkpoint; 0 is the start."""
    return next((step for step, folder in checkpoints(state.checkpoints) if is_whole(folder)), 0)


@torch.no_grad()
def load_student(checkpoint: Path, student: torch.nn.Module) -> None:
    """Give a student the weights of a checkpoint."""
    weights = load_file(checkpoint / _WEIGHTS)
    for name, parameter in learning(student).items():
        parameter.copy_(weights[name])


def load_optimizer(checkpoint: Path, optimizer: torch.optim.Optimizer) -> None:
    """Let an optimizer remember what it did at a checkpoint."""
    optimizing.restore(optimizer, load_file(checkpoint / _OPTIMIZER))
