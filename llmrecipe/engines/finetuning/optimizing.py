"""The recipe's optimizer for a student, and what an optimizer leaves on disk."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from llmrecipe.engines.finetuning.learning import learning, scaled_layers, straight
from llmrecipe.engines.finetuning.sharing import placed_like
from llmrecipe.engines.runs.optimizer import build
from llmrecipe.errors import StageError
from llmrecipe.recipe.kinds import Optimizer
from llmrecipe.recipe.optimizer import SGD, AdamW, NoDecay


def optimizer_of(
    student: nn.Module, optimizer: Optimizer, share: Callable[[nn.Parameter], float] = lambda _: 1.0
) -> torch.optim.Optimizer:
    """torch's optimizer of the parameters that learn, in groups: what decays, what doesn't, and scales.

    Args:
        student: what learns.
        optimizer: the recipe's.
        share: of the learning rate, by which a parameter learns.

    Raises:
        StageError: this engine doesn't know it.
    """
    if not isinstance(optimizer, AdamW | SGD):
        raise StageError(f"training.optimizer: {type(optimizer).__name__} is none that this engine knows")
    spared = {id(parameter) for parameter in _left_alone(student, optimizer.no_decay)}
    scales = {id(layer.weight_scale): layer for layer in scaled_layers(student)}
    groups: dict[tuple[float, float], list[nn.Parameter]] = {
        (optimizer.weight_decay, optimizer.learning_rate): [],
        (0.0, optimizer.learning_rate): [],
    }
    for parameter in learning(student).values():
        decay = 0.0 if id(parameter) in spared else optimizer.weight_decay
        rate = optimizer.learning_rate * share(parameter)
        if id(parameter) in scales:
            # So the largest weight of a group moves by a step of its scale as far as by one of its own.
            decay, rate = 0.0, rate / straight().largest_step(scales[id(parameter)])
        groups.setdefault((decay, rate), []).append(parameter)
    return build(
        optimizer,
        [{"params": each, "weight_decay": decay, "lr": rate} for (decay, rate), each in groups.items() if each],
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
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, torch.Tensor]] = {}
    for key, tensor in tensors.items():
        number, _, name = key.partition(".")
        weight = parameters[int(number)]
        # It counts steps, too, which no rank shares.
        is_of_weights = tensor.shape == weight.shape
        state.setdefault(int(number), {})[name] = placed_like(tensor, weight) if is_of_weights else tensor
    optimizer.load_state_dict(optimizer.state_dict() | {"state": state})
