"""The divergences are what their definitions say, and so are their gradients."""

import math

import numpy as np
import pytest
import torch

from llmrecipe.engines.finetuning.distillation import losses
from llmrecipe.engines.finetuning.distillation.losses import summed_loss
from llmrecipe.errors import StageError
from llmrecipe.recipe.distil import ForwardKL, JensenShannon, ReverseKL
from llmrecipe.recipe.kinds import Divergence
from llmrecipe.recipe.schema import define, members

TOKENS, SIZE = 7, 11


def logits(seed: int) -> torch.Tensor:
    return 3 * torch.randn(TOKENS, SIZE, generator=torch.Generator().manual_seed(seed))


def softmax(values: torch.Tensor, temperature: float) -> np.ndarray:
    exponentials = np.exp(values.double().numpy() / temperature)
    return exponentials / exponentials.sum(-1, keepdims=True)


def kl(of: np.ndarray, to: np.ndarray) -> float:
    return float((of * np.log(of / to)).sum())


LABELS = torch.arange(TOKENS)

BY_DEFINITION = {
    ForwardKL: lambda student, teacher: kl(teacher, student),
    ReverseKL: lambda student, teacher: kl(student, teacher),
    JensenShannon: lambda student, teacher: (
        kl(student, (student + teacher) / 2) / 2 + kl(teacher, (student + teacher) / 2) / 2
    ),
}


def test_every_divergence_is_defined_here():
    assert {*BY_DEFINITION} == {
        cls for cls in members(Divergence).values() if cls.__module__ == "llmrecipe.recipe.distil"
    }


@pytest.mark.parametrize("temperature", [1.0, 2.5])
@pytest.mark.parametrize("cls", BY_DEFINITION)
def test_a_loss_is_its_definition_times_the_square_of_its_temperature(cls, temperature):
    student, teacher = logits(0), logits(1)
    found = summed_loss(cls(temperature=temperature), 0.0, student, teacher, LABELS)
    expected = BY_DEFINITION[cls](softmax(student, temperature), softmax(teacher, temperature))
    assert found.item() == pytest.approx(temperature**2 * expected, rel=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_the_gradient_of_the_forward_divergence_is_the_difference_of_the_predictions(temperature):
    student, teacher = logits(0).requires_grad_(), logits(1)
    summed_loss(ForwardKL(temperature=temperature), 0.0, student, teacher, LABELS).backward()
    expected = softmax(student.detach(), temperature) - softmax(teacher, temperature)
    np.testing.assert_allclose(student.grad.numpy(), temperature * expected, atol=1e-5)


@pytest.mark.parametrize("cls", BY_DEFINITION)
def test_equal_predictions_are_no_distance_apart(cls):
    assert summed_loss(cls(), 0.0, logits(0), logits(0), LABELS).item() == pytest.approx(0, abs=1e-5)


def test_what_has_nothing_in_common_is_log_2_apart_by_jensen_and_shannon():
    student, teacher = torch.full((1, 2), -100.0), torch.full((1, 2), -100.0)
    student[0, 0], teacher[0, 1] = 100.0, 100.0
    assert summed_loss(JensenShannon(), 0.0, student, teacher, LABELS[:1]).item() == pytest.approx(math.log(2))


def test_the_hard_loss_has_its_share():
    student, teacher = logits(0), logits(1)
    cross_entropy = -np.log(softmax(student, 1.0)[range(TOKENS), range(TOKENS)]).sum()
    soft = BY_DEFINITION[ForwardKL](softmax(student, 2.0), softmax(teacher, 2.0)) * 4
    found = summed_loss(ForwardKL(temperature=2.0), 0.25, student, teacher, LABELS)
    assert found.item() == pytest.approx(0.75 * soft + 0.25 * cross_entropy, rel=1e-5)


def test_a_piece_of_the_tokens_at_a_time_gives_the_same(monkeypatch):
    student, teacher = logits(0).requires_grad_(), logits(1)
    whole = summed_loss(ReverseKL(), 0.5, student, teacher, LABELS)
    (expected,) = torch.autograd.grad(whole, student)
    monkeypatch.setitem(losses._AT_ONCE, "cpu", 2 * SIZE)
    pieces = summed_loss(ReverseKL(), 0.5, student, teacher, LABELS)
    (found,) = torch.autograd.grad(pieces, student)
    assert pieces.item() == pytest.approx(whole.item(), rel=1e-6)
    torch.testing.assert_close(found, expected)


def test_a_divergence_of_a_users_own_is_registered_or_refused():
    @define("mine")
    class Mine(Divergence):
        """The largest difference."""

    with pytest.raises(StageError, match=r"nothing computes Mine; register a function with `divergence.register`"):
        summed_loss(Mine(), 0.0, logits(0), logits(1), LABELS)
