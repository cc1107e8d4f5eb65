"""The recipe's optimizer for a student, and what an optimizer leaves on disk."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from llmrecipe.engines.runs.optimizer import build
from llmrecipe.errors import StageError
from llmrecipe.recipe.kinds import Optimizer
from llmrecipe.recipe.optimizer import SGD, AdamW, NoDecay


def optimizer_of(student: nn.Module, optimizer: Optimizer) -> torch.optim.Optimizer:
    """torch's optimizer of the parameters that learn, in two groups: what decays, and what doesn't.

    Raises:
        StageError: this engine doesn't know it.
    """
    if not isinstance(optimizer, AdamW | SGD):
        raise StageError(f"training.optimizer: {type(optimizer).__name__} is none that this engine knows")
    spared = {id(parameter) for parameter in _left_alone(student, optimizer.no_decay)}
    learning = [parameter for parameter in student.parameters() if parameter.requires_grad]
    decayed = [parameter for parameter in learning if id(parameter) not in spared]
    rest = [parameter for parameter in learning if id(parameter) in spared]
    return build(
        optimizer,
        [{"params": decayed, "weight_decay": optimizer.weight_decay}, {"params": rest, "weight_decay": 0.0}],
    )


def _left_alone(student: nn.Module, no_decay: NoDecay) -> Iterator[nn.Parameter]:
    """The parameters that weight decay leaves alone."""
    for module in student.modules():
        # Each family has a norm of its own in transformers.
        is_norm = type(module).__name__.endswith("Norm")
        for name, parameter in module.named_parameters(recurse=False):
            is_of_kind = {"norms": is_norm, "biases": name == "bias", "embeddings": isinstance(module, nn.Embedding)}
            if any(is_of_kind[kind] for kind in no_decay):
                yield parameter


def state_of(optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """What it remembers, by the number of the parameter and the name of what it is: `0.exp_avg`."""
    state: dict[int, dict[str, Any]] = optimizer.state_dict()["state"]
    return {
        f"{number}.{name}": value
        for number, values in state.items()
        for name, value in values.items()
        if value is not None
    }


def restore(optimizer: torch.optim.Optimizer, tensors: dict[str, torch.Tensor]) -> None:
    """Let it remember what `state_of` has given."""
    state: dict[int, dict[str, torch.Tensor]] = {}
    for key, tensor in tensors.items():
        number, _, name = key.partition(".")
        state.setdefault(int(number), {})[name] = tensor
    optimizer.load_state_dict(optimizer.state_dict() | {"state": state})
