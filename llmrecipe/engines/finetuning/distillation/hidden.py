"""How far what a student's layers hand on is from what its teacher's do."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import attrs
import torch
from torch import nn
from transformers import PreTrainedModel

from llmrecipe.engines.finetuning.learning import layers_of

_PROJECTION = "hidden_states_projection"


@attrs.frozen(eq=False)
class Matching:
    """The layers of a student and of its teacher that are compared with each other."""

    student: Sequence[nn.Module]
    """Layers of the student."""

    teacher: Sequence[nn.Module]
    """As many of the teacher."""

    projection: nn.Module
    """What makes the student's states as wide as the teacher's; it changes nothing where they are."""

    weight: float
    """What their distance is multiplied by."""

    @classmethod
    def of(cls, student: PreTrainedModel, teacher: PreTrainedModel, weight: float, seed: int) -> "Matching":
        """How they are matched.

        A projection becomes a part of the student, and so is stepped, clipped, exchanged by ranks and in checkpoints as
        all that learns. What is saved is built anew, without it.

        Args:
            student: what learns.
            teacher: what is imitated.
            weight: what the distance is multiplied by.
            seed: decides the first weights of a projection.

        Raises:
            StageError: one of them has no list of layers.
        """
        mine, its = layers_of(student), layers_of(teacher)
        pairs = matched(len(mine), len(its))
        narrow, wide = student.config.hidden_size, teacher.config.hidden_size
        projection: nn.Module = nn.Identity()
        if narrow != wide:
            projection = nn.Linear(narrow, wide, bias=False)
            generator = torch.Generator().manual_seed(seed)
            # What it gives is as large as what it gets.
            nn.init.normal_(projection.weight, std=narrow**-0.5, generator=generator)
            student.add_module(_PROJECTION, projection)
        return cls([mine[one] for one, _ in pairs], [its[other] for _, other in pairs], projection, weight)

    def summed_loss(self, student: Sequence[torch.Tensor], teacher: Sequence[torch.Tensor]) -> torch.Tensor:
        """Weight times ‖P s - t‖² / ‖t‖², the mean over layers, added up over tokens.

        Each token is measured by its own, so that the sum doesn't depend on which others are beside it.

        Args:
            student: s, what each of its layers hands on, `[tokens, width]`.
            teacher: t, the same of the teacher's.
        """
        errors = []
        for mine, its in zip(student, teacher, strict=True):
            difference = self.projection(mine).float() - its.float()
            errors.append((difference.square().sum(-1) / its.float().square().sum(-1)).sum())
        return self.weight * torch.stack(errors).mean()


def matched(student: int, teacher: int) -> list[tuple[int, int]]:
    """Which layers are compared, from 0, by how many there are of each: evenly, and the last with the last."""
    count = min(student, teacher)
    # Halves are rounded up.
    pairs = [
        [(2 * layer * of + count) // (2 * count) - 1 for of in (student, teacher)] for layer in range(1, count + 1)
    ]
    return [(mine, its) for mine, its in pairs]


@contextmanager
def kept(layers: Sequence[nn.Module]) -> Iterator[list[torch.Tensor]]:
    """Meanwhile, what these layers hand on is kept, in the order in which they compute it."""
    found: list[torch.Tensor] = []

    def keep(_: nn.Module, _given: Any, output: Any) -> None:
        found.append(output[0] if isinstance(output, tuple) else output)

    handles = [layer.register_forward_hook(keep) for layer in layers]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
