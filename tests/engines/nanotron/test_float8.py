"""Hidden layers multiply in float8, near bfloat16 and alike under every layout."""

import shutil
import subprocess
import sys
from pathlib import Path

import attrs
import pytest
import torch
from own_rank import own_rank
from tiny_training import LENGTH, MASKING, NETWORK, STILL, TRAINING, VOCAB_SIZE, column, section, trained, write_tokens

from llmrecipe import Bert, MaskedLM, Parallelism, Steps
from llmrecipe.engines.nanotron import weights
from llmrecipe.engines.nanotron.port import bootstrap

pytest.importorskip("torchao", reason="needs `pip install 'llmrecipe[float8]'`")

FLOAT8 = attrs.evolve(TRAINING, duration=Steps(20), precision="float8")
BERT = Bert(hidden_size=64, num_layers=4, num_attention_heads=4, max_position_embeddings=LENGTH)


@pytest.fixture(scope="module")
def tokens(tmp_path_factory) -> Path:
    return write_tokens(tmp_path_factory.mktemp("data") / "tokens", masking=MASKING, train=20_000, heldout=2_000)


@pytest.fixture(scope="module")
def straight(tokens, tmp_path_factory):
    with own_rank():
        return trained(section(training=FLOAT8), tokens, tmp_path_factory.mktemp("straight"))


@pytest.fixture(scope="module")
def port():
    bootstrap.load("cpu")
    from llmrecipe.engines.nanotron.port import float8

    return float8


def rounded(x: torch.Tensor, number_format: torch.dtype) -> torch.Tensor:
    """`x` in float8 and back, by the largest power of two that leaves its largest value within what that holds."""
    scale = 2.0 ** (torch.finfo(number_format).max / x.abs().max().double()).log2().floor()
    return (x.double() * scale).to(number_format).double() / scale


@pytest.mark.parametrize("shape", [(48, 32), (16, 3, 32)])
@pytest.mark.parametrize("has_bias", [False, True])
def test_the_product_and_its_two_gradients_are_those_of_numbers_rounded_to_float8(port, shape, has_bias):
    torch.manual_seed(0)
    x, weight, bias = torch.randn(shape) * 50, torch.randn(64, 32) / 50, torch.randn(64)
    x, weight, bias = (tensor.bfloat16().requires_grad_() for tensor in (x, weight, bias))
    gradient = (torch.randn(*shape[:-1], 64) / 1000).bfloat16()

    found = port.linear(x, weight, bias if has_bias else None)
    found.backward(gradient)

    x8, weight8, gradient8 = (
        rounded(tensor.detach(), number_format).flatten(0, -2)
        for tensor, number_format in (
            (x, torch.float8_e4m3fn),
            (weight, torch.float8_e4m3fn),
            (gradient, torch.float8_e5m2),
        )
    )
    expected = x8 @ weight8.t()
    assert_close(found - (bias if has_bias else 0), expected.unflatten(0, shape[:-1]))
    assert_close(x.grad, (gradient8 @ weight8).unflatten(0, shape[:-1]))
    assert_close(weight.grad, gradient8.t() @ x8)
    # It is the rounding that is seen, not a product in bfloat16.
    plain = torch.nn.functional.linear(x, weight).detach().flatten(0, -2).double()
    assert (expected - plain).norm() > 0.02 * expected.norm()
    if has_bias:
        assert_close(bias.grad, gradient.flatten(0, -2).double().sum(0))


def assert_close(found: torch.Tensor, expected: torch.Tensor) -> None:
    """As near as bfloat16 is, of the largest value."""
    assert found.dtype == torch.bfloat16
    assert (found.double() - expected).abs().max() <= 2**-7 * expected.abs().max()


def test_what_else_a_micro_batch_holds_changes_no_digit_of_a_product(port):
    torch.manual_seed(0)
    # None so small that float8 has fewer digits for it.
    signs = torch.randn(32, 64).sign()
    x, weight = (signs * (1 + torch.rand(32, 64))).bfloat16(), torch.randn(48, 64).bfloat16()

    alone, beside = port.linear(x, weight), port.linear(torch.cat([x, 100 * x]), weight)

    assert torch.equal(beside[:32], alone)


def test_numbers_that_are_not_finite_are_not_lost(port):
    for broken in (float("inf"), float("nan")):
        x = torch.ones(16, 32, dtype=torch.bfloat16)
        x[3, 5] = broken
        assert not port.linear(x, torch.ones(16, 32, dtype=torch.bfloat16))[3].isfinite().any()


def products(multiply, shape: tuple[int, ...] = (2, 16, 64), device: str = "cpu") -> list[torch.Tensor]:
    """The output and both gradients of the same numbers every time."""
    torch.manual_seed(0)
    inputs = (torch.randn(shape), torch.randn(48, 64))
    x, weight = (tensor.to(device, torch.bfloat16).requires_grad_() for tensor in inputs)
    found = multiply(x, weight)
    found.square().sum().backward()
    return [found.detach(), x.grad, weight.grad]


def test_the_kernel_of_gpus_gives_what_the_emulation_gives(port, monkeypatch):
    """torch has one of that name for CPUs."""
    emulated = products(port.linear)
    monkeypatch.setattr(port, "_EMULATED", port._BY_HARDWARE)
    for one, other in zip(products(port.linear), emulated, strict=True):
        assert_close(one, other.double())


def test_the_kernel_of_gpus_takes_what_it_is_given_by_a_recipe_and_nothing_else(port):
    """torch asks of tensors without values what its kernel asks of those on a GPU."""
    assert [each.shape for each in products(port.linear, device="meta")] == [(2, 16, 48), (2, 16, 64), (48, 64)]
    with pytest.raises(RuntimeError, match="divisible by 16"):
        products(port.linear, (3, 7, 64), device="meta")


@pytest.mark.parametrize("network", [NETWORK, BERT], ids=["decoder", "encoder"])
def test_hidden_layers_multiply_in_float8_and_no_embedding_and_no_head_does(
    tokens, tmp_path, monkeypatch, port, network
):
    shapes, multiply = set(), port.linear

    def linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        shapes.add((*weight.shape,))
        return multiply(x, weight, bias)

    monkeypatch.setattr(port, "linear", linear)
    what = section(network=network, training=attrs.evolve(STILL, precision="float8"))
    if network is BERT:
        what = attrs.evolve(what, objective=MaskedLM(sequence_length=LENGTH))
    with own_rank():
        trained(what, tokens, tmp_path)

    inner = network.feed_forward_size
    if network is BERT:
        assert shapes == {(3 * 64, 64), (64, 64), (inner, 64), (64, inner)}
    else:
        assert shapes == {(64 + 2 * 32, 64), (64, 64), (2 * inner, 64), (64, inner)}
    assert not any(rows >= VOCAB_SIZE for rows, _ in shapes)


@pytest.mark.slow
def test_losses_stay_near_those_of_bfloat16(tokens, tmp_path, straight):
    with own_rank():
        plain = trained(section(training=attrs.evolve(FLOAT8, precision="bfloat16")), tokens, tmp_path)

    assert column(straight, "loss") == pytest.approx(column(plain, "loss"), rel=2e-3)
    assert column(straight, "loss") != column(plain, "loss")
    assert all(weight.dtype == torch.bfloat16 for weight in weights.read_whole(straight.checkpoint).values())
    assert column(plain, "loss")[-1] < 0.9 * column(plain, "loss")[0]


@pytest.mark.slow
def test_a_training_that_was_interrupted_gives_the_same_bits(tokens, tmp_path, straight):
    with own_rank():
        trained(section(training=FLOAT8), tokens, tmp_path, checkpoint_interval=5)
        shutil.rmtree(next(tmp_path.glob("*/checkpoints")) / "20")
        resumed = trained(section(training=FLOAT8), tokens, tmp_path, checkpoint_interval=5)

    assert [row["step"] for row in resumed.metrics] == list(range(1, 21))
    assert resumed.metrics == straight.metrics
    expected, found = weights.read_whole(straight.checkpoint), weights.read_whole(resumed.checkpoint)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.slow
@pytest.mark.parametrize(
    "layout",
    [
        Parallelism(tensor=2, pipeline=2, micro_batch_size=2),
        Parallelism(
            data=2,
            tensor=2,
            micro_batch_size=4,
            zero_stage=1,
            tensor_parallel_mode="reduce_scatter",
            recompute_activations=True,
        ),
    ],
    ids=["tensor-pipeline", "zero-sequence"],
)
def test_layouts_agree_to_rounding(tokens, tmp_path, straight, layout):
    moved = trained(section(layout, training=FLOAT8), tokens, tmp_path)

    assert column(moved, "loss") == pytest.approx(column(straight, "loss"), rel=2e-3)
    expected, found = weights.read_whole(straight.checkpoint), weights.read_whole(moved.checkpoint)
    for name in expected:
        torch.testing.assert_close(found[name].float(), expected[name].float(), rtol=0, atol=2**-6)


@pytest.mark.slow
def test_compiled_layers_round_alike(port):
    for one, other in zip(products(torch.compile(port.linear)), products(port.linear), strict=True):
        assert_close(one, other.double())


@pytest.mark.slow
def test_nothing_is_said_of_kernels_that_are_not_used():
    # What the ranks of a run import first of all, and by transformers torchao.
    code = "import llmrecipe.engines.nanotron.worker, sys; print('torchao' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)

    assert done.stdout == "True\n"
    assert done.stderr == ""
