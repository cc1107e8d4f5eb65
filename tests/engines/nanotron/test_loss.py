"""The output layer's loss and gradients in pieces are torch's of whole logits, and whole logits are never there."""

import subprocess
import sys
import textwrap

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from live_tensors import Live
from torch.nn import functional

from llmrecipe.engines.nanotron.port import bootstrap, linear

HIDDEN = 24


def output_layer(cls: str, *, vocab_size: int, rows: int, z_loss: float = 0.0):
    """An output layer on the only rank."""
    bootstrap.load("cpu")
    from nanotron.parallel.tensor_parallel.enum import TensorParallelLinearMode

    from llmrecipe.engines.nanotron import build
    from llmrecipe.engines.nanotron.networks import loss

    build.join_single_process()
    return getattr(loss, cls)(
        hidden_size=HIDDEN,
        rows=rows,
        vocab_size=vocab_size,
        tensor_group=torch.distributed.group.WORLD,
        mode=TensorParallelLinearMode.ALL_REDUCE,
        z_loss=z_loss,
        bias=cls == "MaskedOutput",
    )


def pieces_of(monkeypatch: pytest.MonkeyPatch, tokens: int) -> None:
    bootstrap.load("cpu")
    from llmrecipe.engines.nanotron.networks import loss

    monkeypatch.setitem(loss.PIECE, "cpu", tokens)


def near(found: torch.Tensor, expected: torch.Tensor, tolerance: float = 1e-6) -> bool:
    return bool((found - expected).norm() <= tolerance * expected.norm())


@pytest.fixture(params=["oneDNN", "MKL"], scope="module")
def library(request):
    """The library that multiplies meanwhile."""
    linear.use(request.param)
    yield request.param
    linear.use(linear.fastest())


@given(
    length=st.integers(1, 9),
    batch=st.integers(1, 3),
    piece=st.integers(1, 28),
    vocab_size=st.integers(2, 40),
    padding=st.integers(0, 5),
    z_loss=st.sampled_from([0.0, 0.1]),
    micro_batches=st.sampled_from([1, 3]),
    seed=st.integers(0, 1000),
    data=st.data(),
)
def test_causal_losses_and_gradients_are_torchs(
    library, length, batch, piece, vocab_size, padding, z_loss, micro_batches, seed, data
):
    torch.manual_seed(seed)
    layer = output_layer("CausalOutput", vocab_size=vocab_size, rows=vocab_size + padding, z_loss=z_loss)
    states = torch.randn(length, batch, HIDDEN) * 3
    labels = torch.randint(0, vocab_size, (batch, length))
    counts = torch.tensor(data.draw(st.lists(st.booleans(), min_size=batch * length, max_size=batch * length)))
    counts[0] = True
    ours, theirs, weight = (x.detach().clone().requires_grad_() for x in (states, states, layer.weight))

    with pytest.MonkeyPatch.context() as patch:
        pieces_of(patch, piece)
        found = layer(ours, labels, counts.view(batch, length))
    (found["loss"] / micro_batches).backward()
    logits = functional.linear(theirs, weight)[..., :vocab_size].transpose(0, 1)[counts.view(batch, length)]
    cross_entropy = functional.cross_entropy(logits, labels[counts.view(batch, length)])
    z = z_loss * logits.logsumexp(-1).square().mean()
    ((cross_entropy + z) / micro_batches).backward()

    assert near(found["cross_entropy"], cross_entropy)
    assert near(found["z_loss"], z)
    assert near(found["loss"], cross_entropy + z)
    assert near(ours.grad, theirs.grad)
    assert near(layer.weight.grad, weight.grad)
    with torch.no_grad():
        again = layer(states, labels, counts.view(batch, length))
    assert not again["loss"].requires_grad
    assert near(again["cross_entropy"], cross_entropy)


@pytest.mark.parametrize("piece", [4, 7, 100])
def test_masked_losses_and_gradients_are_torchs(library, monkeypatch, piece):
    torch.manual_seed(0)
    pieces_of(monkeypatch, piece)
    layer = output_layer("MaskedOutput", vocab_size=37, rows=40, z_loss=0.1)
    states, labels = torch.randn(14, 1, HIDDEN), torch.randint(0, 37, (1, 14))
    # The last is padding.
    scales, is_context = torch.rand(1, 14), torch.arange(14) >= 9
    scales[0, -1] = 0
    ours, theirs, weight, bias = (
        x.detach().clone().requires_grad_() for x in (states, states, layer.weight, layer.bias)
    )

    found = layer(ours, labels, scales, is_context)
    found["loss"].backward()
    logits = functional.linear(theirs, weight, bias)[:, 0, :37]
    each = scales[0] * functional.cross_entropy(logits, labels[0], reduction="none")
    z = (0.1 * scales[0] * logits.logsumexp(-1).square())[~is_context].sum()
    (each.sum() + z).backward()

    assert near(found["cross_entropy"], each[~is_context].sum())
    assert near(found["context"], each[is_context].sum())
    assert near(found["z_loss"], z)
    assert near(found["loss"], each.sum() + z)
    assert near(ours.grad, theirs.grad)
    assert near(layer.weight.grad, weight.grad)
    assert near(layer.bias.grad, bias.grad)


def test_in_bfloat16_the_loss_of_the_logits_is_exact_and_the_gradient_of_the_weights_is_added_up_in_float32(
    monkeypatch,
):
    torch.manual_seed(0)
    pieces_of(monkeypatch, 4)
    layer = output_layer("CausalOutput", vocab_size=40, rows=40).bfloat16()
    states, labels = torch.randn(128, 2, HIDDEN, dtype=torch.bfloat16), torch.randint(0, 40, (2, 128))
    ours, theirs, weight = (x.detach().clone().requires_grad_() for x in (states, states, layer.weight))

    found = layer(ours, labels, torch.ones_like(labels, dtype=torch.bool))
    found["loss"].backward()
    logits = functional.linear(theirs, weight).float()
    expected = functional.cross_entropy(logits.transpose(0, 1).flatten(0, 1), labels.flatten())
    expected.backward()

    assert found["loss"].dtype == torch.float32
    assert near(found["loss"], expected)
    assert {ours.grad.dtype, layer.weight.grad.dtype} == {torch.bfloat16}
    # A rounding to 8 bits, one more where torch rounds once; added up in bfloat16 it would be 64 of them.
    assert near(ours.grad, theirs.grad, 2**-7)
    assert near(layer.weight.grad, weight.grad, 2**-7)


def peak(layer: torch.nn.Module, length: int) -> int:
    """Bytes at the most of a loss and its gradients."""
    states, labels = torch.randn(length, 2, HIDDEN, requires_grad=True), torch.zeros(2, length, dtype=torch.long)
    layer.weight.grad = None
    with Live() as live:
        loss = layer(states, labels, torch.ones_like(labels, dtype=torch.bool))["loss"]
        if loss.requires_grad:
            loss.backward()
    return live.peak


def test_memory_grows_with_the_piece_and_not_with_tokens_by_vocabulary(library, monkeypatch):
    rows = 4000
    layer = output_layer("CausalOutput", vocab_size=rows, rows=rows)
    pieces_of(monkeypatch, 64)
    short, long = peak(layer, 100), peak(layer, 1100)
    pieces_of(monkeypatch, 128)
    larger = peak(layer, 1100)

    # The gradient of a token's state and a few numbers, and not its logits.
    assert 2000 * HIDDEN * 4 <= long - short < 2000 * (HIDDEN + 50) * 4
    # One piece of logits, and what the gradients of a piece are before they are put in their place.
    assert 64 * rows * 4 <= larger - long < 1.1 * 64 * rows * 4
    # Beside that piece, the weights, their gradient, and a piece's part of it.
    assert short < (64 + 3.2 * HIDDEN) * rows * 4
    with torch.no_grad():
        assert peak(layer, 1100) < (1.3 * 128 + HIDDEN) * rows * 4


RANK = """
    import sys
    from pathlib import Path
    import torch
    from llmrecipe.engines.nanotron.port import bootstrap
    bootstrap.load("cpu")
    from nanotron.parallel.tensor_parallel.enum import TensorParallelLinearMode
    from llmrecipe.engines.nanotron.networks import loss

    folder, rank = Path(sys.argv[1]), int(sys.argv[2])
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    group = torch.distributed.group.WORLD
    given = torch.load(folder / "given")
    loss.PIECE["cpu"] = given["piece"]
    for mode in ("ALL_REDUCE", "REDUCE_SCATTER"):
        layer = loss.CausalOutput(
            hidden_size=given["weight"].shape[1], rows=len(given["weight"]), vocab_size=given["vocab_size"],
            tensor_group=group, mode=TensorParallelLinearMode[mode], z_loss=given["z_loss"],
        )
        layer.weight.data.copy_(given["weight"].chunk(2)[rank])
        states = given["states"] if mode == "ALL_REDUCE" else given["states"].chunk(2)[rank]
        states = states.clone().requires_grad_()
        found = layer(states, given["labels"], given["counts"])
        found["loss"].backward()
        found |= {"states": states.grad, "weight": layer.weight.grad}
        torch.save({name: tensor.detach() for name, tensor in found.items()}, folder / f"{mode}-{rank}")
"""


@pytest.mark.slow
def test_ranks_that_share_the_vocabulary_find_the_loss_and_gradients_of_one(tmp_path):
    torch.manual_seed(0)
    vocab_size, z_loss = 45, 0.1
    layer = output_layer("CausalOutput", vocab_size=vocab_size, rows=48, z_loss=z_loss)
    states, labels = torch.randn(14, 3, HIDDEN, requires_grad=True), torch.randint(0, vocab_size, (3, 14))
    counts = torch.rand(3, 14) < 0.8
    given = {"weight": layer.weight.detach(), "states": states.detach(), "labels": labels, "counts": counts}
    torch.save(given | {"vocab_size": vocab_size, "z_loss": z_loss, "piece": 10}, tmp_path / "given")
    ranks = [
        subprocess.Popen([sys.executable, "-c", textwrap.dedent(RANK), str(tmp_path), str(rank)]) for rank in (0, 1)
    ]
    assert [rank.wait(120) for rank in ranks] == [0, 0]

    expected = layer(states, labels, counts)
    expected["loss"].backward()
    for mode in ("ALL_REDUCE", "REDUCE_SCATTER"):
        one, other = (torch.load(tmp_path / f"{mode}-{rank}") for rank in (0, 1))
        for name in ("loss", "cross_entropy", "z_loss"):
            assert torch.equal(one[name], other[name])
            assert near(one[name], expected[name])
        assert near(torch.cat([one["weight"], other["weight"]]), layer.weight.grad)
        whole = one["states"] if mode == "ALL_REDUCE" else torch.cat([one["states"], other["states"]])
        assert near(whole, states.grad)
