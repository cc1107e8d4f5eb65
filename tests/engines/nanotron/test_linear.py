"""Linear layers by oneDNN compute what torch's own do."""

import pytest
import torch

from llmrecipe.engines.nanotron.port.linear import linear


@pytest.mark.parametrize("shape", [(5, 7), (3, 4, 7), (2, 3, 4, 7)])
@pytest.mark.parametrize("has_bias", [False, True])
def test_a_linear_layer_and_its_gradients_are_torchs(shape, has_bias):
    torch.manual_seed(0)
    inputs = [torch.randn(shape), torch.randn(11, 7), *([torch.randn(11)] if has_bias else [])]
    ours, theirs = ([tensor.clone().requires_grad_() for tensor in inputs] for _ in range(2))
    # Not contiguous, as the gradient of a transposed output is.
    gradient = torch.randn(*shape[:-2], 11, shape[-2]).transpose(-1, -2)

    found, expected = linear(*ours), torch.nn.functional.linear(*theirs)
    found.backward(gradient)
    expected.backward(gradient)

    torch.testing.assert_close(found, expected)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one.grad, other.grad)


def test_what_needs_no_gradient_gets_none_and_other_formats_are_left_to_torch():
    x, weight = torch.randn(5, 7), torch.randn(11, 7, requires_grad=True)
    linear(x, weight).sum().backward()
    assert x.grad is None
    torch.testing.assert_close(weight.grad, x.sum(0).expand(11, 7))

    half = linear(x.bfloat16(), weight.bfloat16())
    assert torch.equal(half, torch.nn.functional.linear(x.bfloat16(), weight.bfloat16()))
