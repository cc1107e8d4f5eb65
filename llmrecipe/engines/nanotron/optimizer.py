"""The recipe's optimizer in place of nanotron's own, which knows AdamW alone."""

from typing import Any

import torch
from nanotron import helpers

from llmrecipe.recipe.optimizer import AdamW, Optimizer

_build_with_adamw = helpers.init_optimizer_and_grad_accumulator


def init_optimizer_and_grad_accumulator(optimizer: Optimizer, **arguments: Any) -> tuple[Any, Any]:
    """nanotron's builder with the recipe's optimizer; norms are left out of weight decay."""

    def build(groups: list[dict[str, Any]], **_: Any) -> torch.optim.Optimizer:
        split = [
            {**group, "params": [p for p in group["params"] if decays(p) == decay], "weight_decay": weight_decay}
            for group in groups
            for decay, weight_decay in ((True, optimizer.weight_decay), (False, 0.0))
        ]
        if isinstance(optimizer, AdamW):
            betas = (optimizer.beta1, optimizer.beta2)
            return torch.optim.AdamW(split, lr=optimizer.learning_rate, betas=betas, eps=optimizer.eps, fused=True)
        return torch.optim.SGD(
            split, lr=optimizer.learning_rate, momentum=optimizer.momentum, nesterov=optimizer.nesterov
        )

    def decays(parameter: torch.Tensor) -> bool:
        # ZeRO hands out flat pieces; `orig_data` is the weight that a piece was cut from.
        return getattr(parameter, "orig_data", parameter).dim() > 1

    theirs = helpers.AdamW
    helpers.AdamW = build
    try:
        return _build_with_adamw(**arguments)
    finally:
        helpers.AdamW = theirs
