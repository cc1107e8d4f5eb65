"""What ranks exchange: overlapped or not, in whatever buckets, results stay the same; and waiting is measured."""

import functools
import shutil
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from types import SimpleNamespace

import attrs
import pytest
import torch
from tiny_training import NETWORK, TRAINING, column, section, trained, write_tokens

from llmrecipe import Parallelism, Steps
from llmrecipe.engines.nanotron import weights
from llmrecipe.engines.nanotron.port import bootstrap

bootstrap.load("cpu")

import nanotron.distributed  # noqa: E402
import nanotron.helpers  # noqa: E402

from llmrecipe.engines.nanotron.clock import CudaClock  # noqa: E402
from llmrecipe.engines.nanotron.communication import Communication  # noqa: E402

LAYOUTS = {
    "data": Parallelism(data=2, micro_batch_size=2),
    "zero": Parallelism(data=2, micro_batch_size=4, zero_stage=1),
    "all_reduce": Parallelism(tensor=2, micro_batch_size=4),
    "reduce_scatter": Parallelism(tensor=2, micro_batch_size=4, tensor_parallel_mode="reduce_scatter"),
    "pipeline": Parallelism(pipeline=2, micro_batch_size=2),
}
# Queries in groups (4 heads for 2 of keys), and the output layer's rows in the embedding.
TIED = attrs.evolve(NETWORK, tie_word_embeddings=True)


@pytest.fixture(scope="module")
def tokens(tmp_path_factory) -> Path:
    return write_tokens(tmp_path_factory.mktemp("data") / "tokens", train=20_000, heldout=2_000)


@pytest.fixture(scope="module")
def run(tokens, tmp_path_factory):
    """The training of a layout, run once."""
    return functools.cache(lambda name: trained(section(LAYOUTS[name], TIED), tokens, tmp_path_factory.mktemp(name)))


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["all_reduce", "reduce_scatter"])
def test_overlapped_tensor_parallelism_trains_alike(tokens, tmp_path, run, mode):
    expected = run(mode)
    layout = attrs.evolve(LAYOUTS[mode], async_tensor_parallel=True)
    result = trained(section(layout, TIED), tokens, tmp_path)

    assert column(result, "loss") == pytest.approx(column(expected, "loss"), rel=1e-5)
    assert column(result, "grad_norm") == pytest.approx(column(expected, "grad_norm"), rel=1e-4)
    found = weights.read_whole(result.checkpoint)
    for name, weight in weights.read_whole(expected.checkpoint).items():
        torch.testing.assert_close(found[name], weight, rtol=0, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("layout", "kind"),
    [
        ("data", "data"),
        ("zero", "data"),
        ("all_reduce", "tensor"),
        ("reduce_scatter", "tensor"),
        ("pipeline", "pipeline"),
    ],
)
def test_a_layout_waits_for_what_it_exchanges_and_for_nothing_else(run, layout, kind):
    percent = run(layout).measurements["communication_percent"]

    # Before every update all ranks agree that the step is sound.
    assert {kind} <= percent.keys() <= {kind, "other"}
    assert 1 < sum(percent.values()) < 100


@pytest.mark.slow
def test_the_size_of_buckets_changes_no_bit(tokens, tmp_path):
    """In bfloat16, whose gradients nanotron adds up in float32 by calls of its own; of two parts, in any order."""
    model = attrs.evolve(NETWORK, hidden_size=256)
    training = attrs.evolve(TRAINING, duration=Steps(5), precision="bfloat16")
    layouts = {name: attrs.evolve(LAYOUTS["data"], bucket_size_mb=size) for name, size in (("few", 25), ("many", 1))}
    few, many = (trained(section(layouts[name], model, training), tokens, tmp_path / name) for name in layouts)

    assert many.metrics == few.metrics
    assert_equal_weights(many, few)


@pytest.mark.slow
def test_three_replicas_continue_bit_for_bit(tokens, tmp_path):
    """The order in which three numbers are added up shows in the last bit."""
    layout = Parallelism(data=3, micro_batch_size=2)
    training = attrs.evolve(TRAINING, global_batch_size=6)
    straight = trained(section(layout, training=training), tokens, tmp_path / "straight", checkpoint_interval=5)
    trained(section(layout, training=training), tokens, tmp_path / "resumed", checkpoint_interval=5)
    shutil.rmtree(next((tmp_path / "resumed").glob("*/checkpoints")) / "10")
    resumed = trained(section(layout, training=training), tokens, tmp_path / "resumed", checkpoint_interval=5)

    assert resumed.metrics == straight.metrics
    assert_equal_weights(resumed, straight)


def assert_equal_weights(result, expected):
    found = weights.read_whole(result.checkpoint)
    assert all(torch.equal(found[name], weight) for name, weight in weights.read_whole(expected.checkpoint).items())


def test_every_bucket_of_gradients_is_waited_for(monkeypatch):
    sums = [torch.futures.Future() for _ in range(2)]
    given = iter(sums)
    monkeypatch.setattr(nanotron.distributed, "all_reduce_coalesced", lambda *_, **__: next(given))
    weight, gradient = torch.zeros(4), torch.ones(4)
    bucket = SimpleNamespace(parameters=lambda: [weight], gradients=lambda: [gradient], buffer=lambda: gradient)
    accumulator = SimpleNamespace(get_grad_buffer=lambda _: torch.zeros(4), fp32_grads_allreduce_handle=None)
    state = SimpleNamespace(dp_pg=GROUPS["dp_pg"], accumulator=accumulator, param_id_to_name={id(weight): "weight"})
    hook = nanotron.helpers.get_fp32_accum_hook(reduce_scatter=False)
    for _ in sums:
        hook(state, bucket)

    sums[1].set_result(None)
    step = threading.Thread(target=accumulator.fp32_grads_allreduce_handle.wait, daemon=True)
    step.start()
    step.join(0.2)
    assert step.is_alive()

    sums[0].set_result(None)
    step.join(10)
    assert not step.is_alive()


class Group:
    def __init__(self, size: int) -> None:
        self.size = lambda: size


GROUPS = {"dp_pg": Group(2), "tp_pg": Group(4)}


class Clock:
    """A clock that work moves on."""

    def __init__(self) -> None:
        self.time = 0

    def work(self, seconds: int, **_) -> None:
        self.time += seconds

    def now(self) -> int:
        return self.time

    def seconds(self, start: int, end: int) -> int:
        return end - start


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def communication(clock) -> Communication:
    return Communication(SimpleNamespace(**GROUPS), clock)


def test_waiting_is_counted_by_group_and_only_within_a_step(clock, communication):
    collective = communication.collective(clock.work)
    collective(16, group=GROUPS["dp_pg"])
    communication.start()
    for seconds, group in ((1, GROUPS["dp_pg"]), (2, GROUPS["tp_pg"]), (4, Group(8)), (8, Group(1))):
        collective(seconds, group=group)
    clock.work(32)

    assert communication.count(communication.stop(), 50) == {"data": 1, "tensor": 2, "other": 4}
    communication.start()
    collective(1, group=GROUPS["dp_pg"])
    assert communication.count(communication.stop(), 50) == {"data": 1}
    assert communication.percent() == {"data": 2, "tensor": 2, "other": 4}


def test_a_call_within_a_call_counts_once(clock, communication):
    communication.start()
    communication.wait("pipeline", communication.collective(clock.work), 1, group=GROUPS["dp_pg"])

    assert communication.count(communication.stop(), 10) == {"pipeline": 1}


def test_what_is_on_its_way_while_a_rank_computes_counts_for_the_rest(clock, communication):
    handle = SimpleNamespace(wait=functools.partial(clock.work, 2))
    communication.start()
    work = communication.collective(lambda **_: handle)(group=GROUPS["dp_pg"], async_op=True)
    clock.work(4)
    work.wait()

    assert communication.count(communication.stop(), 10) == {"data": 2}


def test_on_a_gpu_events_are_recorded_around_a_call_and_read_later(monkeypatch):
    log = []

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing

        def record(self) -> None:
            log.append("recorded")

        def synchronize(self) -> None:
            log.append("waited for")

        def elapsed_time(self, end: "Event") -> float:
            log.append("read")
            return 250.0

    monkeypatch.setattr(torch.cuda, "Event", Event)
    clock = CudaClock()
    communication = Communication(SimpleNamespace(**GROUPS), clock)
    communication.start()
    communication.wait("pipeline", log.append, "called")
    waits, end = communication.stop(), clock.now()
    assert log == ["recorded", "called", "recorded", "recorded"]

    log.clear()
    clock.wait(end)
    assert communication.count(waits, 1.0) == {"pipeline": 0.25}
    assert log == ["waited for", "read"]


@pytest.mark.slow
def test_peak_memory_is_that_of_the_program_itself():
    program = """
        import os, sys
        if len(sys.argv) == 1:
            gone = bytearray(2_000_000_000)
            os.execv(sys.executable, [sys.executable, "-c", PROGRAM, "again"])
        from llmrecipe.engines.device import peak_memory_mb
        before = peak_memory_mb("cpu")
        held = bytearray(700_000_000)
        del held
        print(before, peak_memory_mb("cpu") - before)
    """
    program = textwrap.dedent(program)
    program = f"PROGRAM = {program!r}\n{program}"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    before, grown = map(int, done.stdout.split())

    assert 10 < before < 1_500
    assert grown == pytest.approx(700, abs=100)
