"""What a run needs to go on: weights that learn, what the optimizer remembers, and the rows of its steps.

Whatever a step draws it draws by its number, so there is no state of random numbers.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from llmrecipe import artifacts
from llmrecipe.engines.finetuning.learning import learning
from llmrecipe.engines.finetuning.sharing import gather, gathered, placed_like
from llmrecipe.engines.runs.checkpoints import KIND, checkpoints, is_whole, keep_newest
from llmrecipe.engines.runs.state import StateFolder
from llmrecipe.errors import StageError, refusal

WEIGHTS, OPTIMIZER = "weights", "optimizer"
"""Parts that every checkpoint has."""

Parts = Mapping[str, Mapping[str, torch.Tensor]]
"""What a checkpoint has: tensors by name, by part."""


def save(state: StateFolder, step: int, parts: Parts, count: int) -> None:
    """Write the checkpoint of a step, whole or not at all, and keep the newest `count`.

    Raises:
        StageError: the disk is full.
    """
    try:
        with artifacts.replacing(state.checkpoint(step)) as folder:
            for part, tensors in parts.items():
                save_file({name: gathered(tensor, folder) for name, tensor in tensors.items()}, _file(folder, part))
            artifacts.seal(folder, KIND)
    except Exception as error:
        reason = refusal(error)
        if reason is None:
            raise
        raise StageError(f"{state.checkpoints}: the checkpoint of step {step}: {reason}") from error
    keep_newest(state.checkpoints, count, lambda _: False)


def give(parts: Parts) -> None:
    """Give this rank's part of the checkpoint that another rank writes meanwhile."""
    for tensors in parts.values():
        for tensor in tensors.values():
            gather(tensor)


def newest(state: StateFolder) -> int:
    """The step of the newest whole checkpoint; 0 is the start."""
    return next((step for step, folder in checkpoints(state.checkpoints) if is_whole(folder)), 0)


def load(checkpoint: Path, part: str) -> dict[str, torch.Tensor]:
    """A part of a checkpoint; nothing if it has none of this name."""
    file = _file(checkpoint, part)
    return load_file(file) if file.exists() else {}


@torch.no_grad()
def put(weights: Mapping[str, torch.Tensor], model: torch.nn.Module) -> None:
    """Give a model these in the place of the weights that it learns."""
    for name, parameter in learning(model).items():
        parameter.copy_(placed_like(weights[name], parameter))


def _file(folder: Path, part: str) -> Path:
    return folder / f"{part}.safetensors"
