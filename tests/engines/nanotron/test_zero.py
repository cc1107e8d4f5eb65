"""ZeRO in bfloat16: what each replica gets of the gradients, when, and that it changes nothing."""

import itertools
import random
import shutil
from pathlib import Path

import attrs
import pytest
import torch
from tiny_training import NETWORK, TRAINING, column, section, trained, write_tokens

from llmrecipe import Parallelism, Steps
from llmrecipe.engines.nanotron import weights
from llmrecipe.engines.nanotron.port import bootstrap
from llmrecipe.recipe.optimizer import Muon

bootstrap.load("cpu")

import nanotron.distributed  # noqa: E402

from llmrecipe.engines.nanotron.port import zero  # noqa: E402
from llmrecipe.engines.nanotron.port.zero import Plan  # noqa: E402

BFLOAT16 = attrs.evolve(TRAINING, precision="bfloat16", clip_grad_norm=None)
PLAIN = Parallelism(data=2, micro_batch_size=2)
ZERO = attrs.evolve(PLAIN, zero_stage=1)


def plan(sizes, ranks=2, at_least=1, owners=None, shared=()):
    named = {f"w{index}": size for index, size in enumerate(sizes)}
    return Plan(sizes=named, owners=owners or {}, shared=shared, ranks=ranks, at_least=at_least)


@pytest.mark.parametrize("seed", range(20))
def test_every_number_is_updated_by_one_rank(seed):
    draw = random.Random(seed)
    sizes, ranks = [draw.randint(1, 40) for _ in range(12)], draw.randint(2, 5)
    kinds = {f"w{index}": draw.choice(["cut", "cut", "whole", "shared"]) for index in range(len(sizes))}
    owners = {name: draw.randrange(ranks) for name, kind in kinds.items() if kind == "whole"}
    shared = {name for name, kind in kinds.items() if kind == "shared"}
    found = plan(sizes, ranks, draw.randint(1, 100), owners, shared)

    for name, size in found.sizes.items():
        ranges = found.ranges[name]
        assert list(ranges) == sorted(ranges)
        edges = list(itertools.chain.from_iterable(ranges.values()))
        # Each begins where the one before it ends.
        assert [0, *edges[1::2]] == [*edges[::2], size]
        assert all(start < end for start, end in ranges.values())
        if name in owners:
            assert ranges == {owners[name]: (0, size)}
    exchanged = [(exchange.start, exchange.end) for exchange in found.exchanges]
    assert [start for start, _ in exchanged] == [0, *(end for _, end in exchanged[:-1])]
    assert exchanged[-1][1] == sum(sizes)


def test_what_ranks_send_is_half_of_what_they_all_sent():
    """By the ring algorithms (Patarasuk and Yuan 2009), of numbers that all ranks have: nearly 2 and 1 for each."""
    ranks = 4
    found = plan([1000, 64, 4096, 64, 4096, 64, 1000], ranks=ranks, at_least=4000)
    cost = {"scatter": (ranks - 1) / ranks, "all": 2 * (ranks - 1) / ranks, "reduce": 1}
    sent = sum((exchange.end - exchange.start) * cost[exchange.way] for exchange in found.exchanges)
    assert sent == pytest.approx(sum(found.sizes.values()) * cost["all"] / 2)
    assert [exchange.end - exchange.start for exchange in found.exchanges] == [5160, 4160, 1064]


class Work:
    def __init__(self, log: list[str], name: str) -> None:
        self.log, self.name = log, name

    def wait(self) -> None:
        self.log.append(f"{self.name} waited for")


class Group:
    def size(self) -> int:
        return 2


@pytest.mark.parametrize("rank", [0, 1])
def test_gradients_are_added_up_while_the_backward_pass_goes_on(monkeypatch, rank):
    log: list[str] = []
    torch.manual_seed(0)
    layers = [torch.nn.Linear(6, 6, bias=False, dtype=torch.bfloat16) for _ in range(3)]
    named = [(f"w{index}", layer.weight) for index, layer in enumerate(layers)]
    x = torch.randn(4, 6, dtype=torch.bfloat16)

    def loss() -> torch.Tensor:
        return torch.nn.Sequential(*layers)(x).float().square().sum()

    alone = dict(
        zip((name for name, _ in named), torch.autograd.grad(loss(), [weight for _, weight in named]), strict=False)
    )
    for index, layer in enumerate(layers):
        layer.weight.register_post_accumulate_grad_hook(lambda _, index=index: log.append(f"w{index}"))
    found = plan([36, 36, 36], owners={"w1": 1})

    # The other replica has the same gradients, times three.
    def reduce_scatter(output, whole, group, async_op):
        log.append(f"scatter {whole.numel()}")
        output.mul_(4)
        return Work(log, "scatter")

    def reduce(whole, group, async_op, group_dst):
        log.append(f"reduce to {group_dst}")
        if group_dst == rank:
            whole.mul_(4)
        return Work(log, "reduce")

    monkeypatch.setattr(nanotron.distributed, "reduce_scatter_tensor", reduce_scatter)
    monkeypatch.setattr(nanotron.distributed, "reduce", reduce)
    monkeypatch.setattr(nanotron.distributed, "get_rank", lambda group: rank)
    accumulator = zero.accumulator(found, Group(), backwards=2)([], named)
    accumulator.assign_param_offsets(found.ranges, rank)
    for _ in range(2):
        log.append("backward")
        accumulator.backward(loss())
    log.append("ended")
    accumulator.sync_gradients_across_dp(Group(), None, False)

    assert log == [
        *("backward", "w2", "w1", "w0"),
        *("backward", "w2", "scatter 36", "w1", "reduce to 1", "w0", "scatter 36", "ended"),
        *("scatter waited for", "reduce waited for", "scatter waited for"),
    ]
    own = accumulator.own()
    assert own.keys() == ({"w0", "w2"} if rank == 0 else {"w0", "w1", "w2"})
    for name, part in own.items():
        # Two micro-batches, and the mean of 1 and 3.
        expected = (alone[name].float() * 2 * 2).view(-1)[slice(*found.ranges[name][rank])]
        torch.testing.assert_close(part, expected, rtol=0, atol=0)


@pytest.fixture(scope="module")
def tokens(tmp_path_factory) -> Path:
    return write_tokens(tmp_path_factory.mktemp("data") / "tokens", train=20_000, heldout=2_000)


def assert_equal_weights(result, expected):
    found = weights.read_whole(result.checkpoint)
    assert all(torch.equal(found[name], weight) for name, weight in weights.read_whole(expected.checkpoint).items())


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", [TRAINING.optimizer, Muon(learning_rate=1e-3)], ids=["adamw", "muon"])
def test_two_replicas_that_share_the_state_compute_what_two_that_do_not_compute(tokens, tmp_path, optimizer):
    """A sum of two is the same in any order, so these are the same bits; the norm is added up in another order."""
    training = attrs.evolve(BFLOAT16, optimizer=optimizer)
    plain, shared = (
        trained(section(layout, training=training), tokens, tmp_path / name)
        for name, layout in (("plain", PLAIN), ("zero", ZERO))
    )
    for name in ("loss", "validation_loss"):
        assert column(shared, name) == column(plain, name)
    assert column(shared, "grad_norm") == pytest.approx(column(plain, "grad_norm"), rel=1e-6)
    assert_equal_weights(shared, plain)


@pytest.mark.slow
def test_a_training_with_a_shared_state_continues_bit_for_bit(tokens, tmp_path):
    layout = attrs.evolve(ZERO, data=3, bucket_size_mb=1)
    model = attrs.evolve(NETWORK, hidden_size=192)
    training = attrs.evolve(BFLOAT16, global_batch_size=6, clip_grad_norm=0.1, duration=Steps(6), validation_interval=3)
    straight, cut = (
        trained(section(layout, model, training), tokens, tmp_path / name, checkpoint_interval=3)
        for name in ("straight", "cut")
    )
    assert cut.metrics == straight.metrics
    shutil.rmtree(next((tmp_path / "cut").glob("*/checkpoints")) / "6")
    resumed = trained(section(layout, model, training), tokens, tmp_path / "cut", checkpoint_interval=3)
    assert resumed.metrics == straight.metrics
    assert_equal_weights(resumed, straight)


@pytest.mark.slow
@pytest.mark.parametrize(
    "layout",
    [
        Parallelism(data=2, pipeline=2, micro_batch_size=2),
        Parallelism(data=2, tensor=2, micro_batch_size=2, tensor_parallel_mode="reduce_scatter"),
    ],
    ids=["pipeline", "tensor"],
)
def test_weights_that_ranks_of_a_replica_share_get_the_gradients_of_all(tokens, tmp_path, layout):
    """Of the embedding each stage has a part of the gradient, of the norms each rank with other tokens."""
    model = attrs.evolve(NETWORK, tie_word_embeddings=True)
    training = attrs.evolve(BFLOAT16, duration=Steps(5))
    plain, shared = (
        trained(section(attrs.evolve(layout, zero_stage=stage), model, training), tokens, tmp_path / str(stage))
        for stage in (0, 1)
    )
    assert column(shared, "loss") == column(plain, "loss")
    assert column(shared, "grad_norm") == pytest.approx(column(plain, "grad_norm"), rel=1e-6)
    assert_equal_weights(shared, plain)
