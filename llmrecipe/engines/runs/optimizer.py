"""torch's optimizers by the words of the recipe."""

from typing import Any

import torch

from llmrecipe.recipe.optimizer import SGD, AdamW


def build(optimizer: AdamW | SGD, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    """torch's optimizer for parameter groups that bring their weight decay."""
    match optimizer:
        case AdamW(learning_rate=rate, beta1=beta1, beta2=beta2, eps=eps):
            return torch.optim.AdamW(groups, lr=rate, betas=(beta1, beta2), eps=eps, fused=True)
        case SGD(learning_rate=rate, momentum=momentum, nesterov=nesterov):
            return torch.optim.SGD(groups, lr=rate, momentum=momentum, nesterov=nesterov)
