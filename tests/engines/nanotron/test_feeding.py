"""What a step costs beside its work: a GPU is never kept waiting by this process, and computes the same."""

import contextlib
from pathlib import Path
from types import SimpleNamespace

import attrs
import pytest
import torch
from own_rank import own_rank
from tiny_training import LENGTH, MASKING, NETWORK, SHORT, TRAINING, section, trained, write_tokens
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from llmrecipe import Bert, ModernBert, MultiMaskLM, Steps
from llmrecipe.engines.nanotron import weights
from llmrecipe.engines.nanotron.port import bootstrap
from llmrecipe.errors import StageError
from llmrecipe.recipe.optimizer import SGD, Muon

bootstrap.load("cpu")

from llmrecipe.engines.nanotron import feeding  # noqa: E402
from llmrecipe.engines.nanotron.feeding import Feed  # noqa: E402
from llmrecipe.engines.nanotron.masked_data import MaskedReader  # noqa: E402
from llmrecipe.engines.nanotron.trainer import Trainer  # noqa: E402

LOOKING = {"item", "tolist", "cpu", "numpy", "nonzero", "unique", "__bool__", "__int__", "__float__", "__index__"}
"""Methods of a tensor that wait for its numbers."""

LOOKING_INSIDE = {
    f"aten::{name}" for name in ("_local_scalar_dense", "nonzero", "is_nonzero", "masked_select", "equal")
}
"""What such methods, and others that decide by numbers, call."""


def selects(function, args) -> bool:
    """Whether an operator picks elements by a mask, for which it counts them; a single number fills without that."""
    name = function._schema.name
    if name not in ("aten::index", "aten::index_put", "aten::index_put_"):
        return False
    masks = [index for index in args[1] if index is not None and index.dtype is torch.bool]
    return bool(masks) and not (name != "aten::index" and args[2].dim() == 0)


class Looks:
    """What is looked at within its `watching`: each a GPU would have to catch up for."""

    def __init__(self) -> None:
        self.found: list[str] = []

    @contextlib.contextmanager
    def watching(self):
        looks = self

        class Functions(TorchFunctionMode):
            def __torch_function__(self, function, types, args=(), kwargs=None):
                name = getattr(function, "__name__", "")
                looks.found += [name] if name in LOOKING else []
                return function(*args, **(kwargs or {}))

        class Operators(TorchDispatchMode):
            def __torch_dispatch__(self, function, types, args=(), kwargs=None):
                name = function._schema.name
                looks.found += [name] if name in LOOKING_INSIDE or selects(function, args) else []
                return function(*args, **(kwargs or {}))

        with Functions(), Operators():
            yield


@pytest.fixture(scope="module")
def tokens(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("data") / "tokens"
    return write_tokens(directory, masking=MASKING, train=20_000, heldout=2_000)


@pytest.fixture
def later(monkeypatch):
    """Steps are judged as on a GPU, here."""
    monkeypatch.setattr(Trainer, "judges_later", True)
    with own_rank():
        yield


def test_looks_are_seen():
    looks, numbers = Looks(), torch.arange(3)
    with looks.watching():
        numbers.sum().item()
        numbers[numbers > 1]
        numbers[numbers > 1] = 0
        numbers.tolist()
        if numbers.any():
            pass
    assert {"item", "tolist", "aten::index", "__bool__", "aten::_local_scalar_dense"} == {*looks.found}


MASKED = MultiMaskLM(sequence_length=LENGTH, context_weight=0.5)


@pytest.mark.slow
@pytest.mark.usefixtures("later")
@pytest.mark.parametrize(
    ("network", "objective", "optimizer"),
    [
        (NETWORK, None, TRAINING.optimizer),
        (NETWORK, None, Muon(learning_rate=1e-3)),
        (NETWORK, None, SGD(learning_rate=1e-3)),
        (Bert(hidden_size=64, num_layers=2, num_attention_heads=4, max_position_embeddings=LENGTH), MASKED, None),
        (ModernBert(hidden_size=64, num_layers=2, num_attention_heads=4), MASKED, None),
    ],
    ids=["adamw", "muon", "sgd", "bert", "modernbert"],
)
def test_a_step_looks_at_no_number(tokens, tmp_path, monkeypatch, network, objective, optimizer):
    looks, step = Looks(), Trainer.training_step

    def watched(self, dataloader):
        with looks.watching():
            return step(self, dataloader)

    monkeypatch.setattr(Trainer, "training_step", watched)
    training = attrs.evolve(SHORT, z_loss=1e-3, optimizer=optimizer or TRAINING.optimizer)
    what = section(network=network, training=training)
    result = trained(attrs.evolve(what, objective=objective or what.objective), tokens, tmp_path)

    assert [row["step"] for row in result.metrics] == [1, 2, 3, 4]
    assert looks.found == []


@pytest.mark.slow
def test_a_training_that_is_judged_later_is_the_same(tokens, tmp_path, request):
    with own_rank():
        expected = trained(section(), tokens, tmp_path / "first", checkpoint_interval=4)
    request.getfixturevalue("later")
    result = trained(section(), tokens, tmp_path / "later", checkpoint_interval=4)

    assert result.metrics == expected.metrics
    found = weights.read_whole(result.checkpoint)
    assert all(torch.equal(found[name], weight) for name, weight in weights.read_whole(expected.checkpoint).items())
    timings = next((tmp_path / "later").glob("*/timings.jsonl")).read_text().splitlines()
    assert len(timings) == len(result.metrics)


@pytest.mark.slow
@pytest.mark.usefixtures("later")
@pytest.mark.parametrize("interval", [1, 100])
def test_a_step_that_is_found_broken_later_is_named_and_nothing_of_it_is_kept(tokens, tmp_path, interval):
    wild = attrs.evolve(
        TRAINING, optimizer=SGD(learning_rate=1e19), clip_grad_norm=None, duration=Steps(20), validation_interval=20
    )
    with pytest.raises(StageError, match=r"step \d+ has .*(nan|inf)") as error:
        trained(section(training=wild), tokens, tmp_path, checkpoint_interval=interval)

    broken = int(str(error.value).split("step ")[1].split()[0])
    rows = next(tmp_path.glob("*/metrics.jsonl")).read_text().splitlines()
    assert len(rows) == broken - 1
    kept = [int(path.name) for path in tmp_path.glob("*/checkpoints/[0-9]*")]
    assert all(step < broken for step in kept)
    assert bool(kept) == (interval == 1 and broken > 1)


class Batches:
    """Micro-batches of the numbers 0, 1, 2 …; `read` are those that were read."""

    def __init__(self) -> None:
        self.read: list[int] = []

    def __next__(self):
        self.read.append(len(self.read))
        return {"input_ids": torch.tensor([self.read[-1]]), "samples": range(1)}

    def take_digest(self) -> int:
        return sum(self.read)


READER = SimpleNamespace(scale=lambda batches, group: batches)


def numbers(step) -> list[int]:
    return [batch["input_ids"].item() for batch in step.micro_batches]


def test_on_a_cpu_nothing_is_read_before_its_step():
    batches = Batches()
    feed = Feed(READER, batches, 2, None, "cpu")
    for step in range(3):
        assert numbers(feed.take()) == [2 * step, 2 * step + 1]
        feed.send()
        assert len(batches.read) == 2 * step + 2


def test_a_gpu_is_sent_the_next_step_in_a_stream_of_its_own_and_gets_the_same(monkeypatch):
    log = []
    current = SimpleNamespace(wait_stream=lambda stream: log.append(f"wait for {stream}"))

    @contextlib.contextmanager
    def stream(name):
        log.append(f"in {name}")
        yield
        log.append(f"out of {name}")

    monkeypatch.setattr(torch.cuda, "Stream", lambda: "copies")
    monkeypatch.setattr(torch.cuda, "stream", stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: current)
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda tensor, stream: log.append("used"), raising=False)
    monkeypatch.setattr(feeding, "_moved", lambda tensor, device: tensor)
    batches = Batches()
    feed = Feed(READER, batches, 2, None, "cuda")

    first = feed.take()
    log.clear()
    feed.send()
    assert (batches.read, log) == ([0, 1, 2, 3], ["in copies", "out of copies"])

    log.clear()
    second = feed.take()
    assert batches.read == [0, 1, 2, 3]
    # The digest, and the tensors of both micro-batches.
    assert log == ["wait for copies", "used", "used", "used"]
    assert (numbers(first), numbers(second), numbers(feed.take())) == ([0, 1], [2, 3], [4, 5])
    assert (first.digest.item(), second.digest.item()) == (1, 6)


def test_labels_are_scaled_by_their_numbers_in_the_whole_batch_without_a_look_at_them():
    generator = torch.Generator().manual_seed(0)
    batches = [
        {
            "is_context": torch.rand(30, generator=generator) < 0.3,
            "label_scales": (torch.rand(1, 30, generator=generator) < 0.8).float(),
        }
        for _ in range(3)
    ]
    counted = [batch["label_scales"][0] > 0 for batch in batches]
    labels = sum(int((of & ~batch["is_context"]).sum()) for of, batch in zip(counted, batches, strict=True))
    contexts = sum(int((of & batch["is_context"]).sum()) for of, batch in zip(counted, batches, strict=True))
    reader = MaskedReader(
        files=None,
        shard=SimpleNamespace(reads_labels=True),
        objective=MASKED,
        seed=0,
        vocabulary=None,
        tensor_parallel=1,
    )
    looks = Looks()
    with looks.watching():
        scaled = reader.scale([dict(batch) for batch in batches], None)

    assert looks.found == []
    for before, after in zip(batches, scaled, strict=True):
        scale = torch.where(before["is_context"], 0.5 / (contexts / 3), 1 / (labels / 3))
        assert torch.equal(after["label_scales"], (before["label_scales"] * scale).float())
        assert after["label_scales"].dtype is torch.float32
