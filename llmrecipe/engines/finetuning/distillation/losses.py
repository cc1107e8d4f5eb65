"""How far a student's predictions are from its teacher's, token by token."""

import math
from collections.abc import Callable
from functools import singledispatch
from typing import Any

import torch
from torch.nn import functional

from llmrecipe.engines.finetuning.distillation.predictions import classes
from llmrecipe.errors import StageError
from llmrecipe.recipe.distil import ForwardKL, JensenShannon, ReverseKL
from llmrecipe.recipe.kinds import Divergence

_AT_ONCE = {"cpu": 1 << 20, "cuda": 1 << 24}
"""Logits that are compared at once, by device: each needs several numbers more, which stay in a processor's cache."""

_Piece = Callable[..., torch.Tensor]


def summed_loss(
    loss: Divergence,
    hard_loss_weight: float,
    student: torch.Tensor,
    teacher: torch.Tensor,
    labels: torch.Tensor,
    stored_ids: torch.Tensor | None = None,
) -> torch.Tensor:
    """The loss, added up over tokens.

    What is between logits and loss is held of a piece of the tokens at a time: its gradient is computed along with it.

    Args:
        loss: how far predictions are apart.
        hard_loss_weight: share of the cross-entropy with the labels.
        student: logits `[tokens, vocabulary]`.
        teacher: logits of the same shape; with `stored_ids`, what `predictions.top` has given.
        labels: what the text has, `int64[tokens]`.
        stored_ids: the tokens that are named of the teacher's predictions, `[tokens, top_k]`.
    """

    def piece(mine: torch.Tensor, its: torch.Tensor, wanted: torch.Tensor, *ids: torch.Tensor) -> torch.Tensor:
        predicted = _log_softmax(mine, loss)
        both = (classes(predicted, *ids), its) if ids else (predicted, _log_softmax(its, loss))
        soft = divergence(loss, *both).sum() * loss.temperature**2
        if hard_loss_weight == 0:
            return soft
        hard = functional.cross_entropy(mine.float(), wanted, reduction="sum")
        return (1 - hard_loss_weight) * soft + hard_loss_weight * hard

    given = [student, teacher, labels, *([] if stored_ids is None else [stored_ids])]
    found: torch.Tensor = _Pieces.apply(piece, *given)
    return found


class _Pieces(torch.autograd.Function):
    """What a function adds up over tokens, with its gradient by the first of the tensors that it is given."""

    @staticmethod
    def forward(ctx: Any, piece: _Piece, student: torch.Tensor, *others: torch.Tensor) -> torch.Tensor:
        rows, is_learning = max(1, _AT_ONCE[student.device.type] // student.shape[1]), ctx.needs_input_grad[1]
        gradient = torch.empty_like(student, memory_format=torch.contiguous_format) if is_learning else student
        sums = []
        for into, mine, *rest in zip(*(each.split(rows) for each in (gradient, student, *others)), strict=True):
            with torch.set_grad_enabled(is_learning):
                leaf = mine.detach().requires_grad_()
                loss = piece(leaf, *rest)
            sums.append(loss.detach())
            if is_learning:
                into.copy_(*torch.autograd.grad(loss, leaf))
        if is_learning:
            ctx.save_for_backward(gradient)
        return torch.stack(sums).sum()

    @staticmethod
    def backward(ctx: Any, *given: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        # In its own memory, for it is as large as the logits; a second time, torch refuses.
        return None, ctx.saved_tensors[0].mul_(*given), *[None] * (len(ctx.needs_input_grad) - 2)


def _log_softmax(logits: torch.Tensor, loss: Divergence) -> torch.Tensor:
    return (logits.float() / loss.temperature).log_softmax(-1)


@singledispatch
def divergence(loss: Divergence, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """How far predictions are apart, `[tokens]`, by log-probabilities `[tokens, vocabulary]`; of stored predictions,
    `[tokens, top_k + 1]`."""
    raise StageError(f"loss: nothing computes {type(loss).__name__}; register a function with `divergence.register`")


@divergence.register
def _forward(loss: ForwardKL, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    return _kl(teacher, student)


@divergence.register
def _reverse(loss: ReverseKL, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    return _kl(student, teacher)


@divergence.register
def _jensen_shannon(loss: JensenShannon, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    middle = torch.logaddexp(student, teacher) - math.log(2)
    return (_kl(student, middle) + _kl(teacher, middle)) / 2


def _kl(of: torch.Tensor, to: torch.Tensor) -> torch.Tensor:
    """KL(of ‖ to)."""
    return functional.kl_div(to, of, log_target=True, reduction="none").sum(-1)
