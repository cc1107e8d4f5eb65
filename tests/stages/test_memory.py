"""A training's memory stays what it was, however many steps it takes."""

import threading
from collections import defaultdict
from pathlib import Path

import attrs
import psutil
import pytest
from tiny_training import NETWORK, TRAINING, section, trained, write_tokens

from llmrecipe import Parallelism, Steps

LAYOUTS = {
    "one": Parallelism(micro_batch_size=4),
    "data": Parallelism(data=2, micro_batch_size=2),
    "zero": Parallelism(data=2, micro_batch_size=2, zero_stage=1),
    "tensor": Parallelism(tensor=2, micro_batch_size=4),
    "sequence": Parallelism(tensor=2, micro_batch_size=4, tensor_parallel_mode="reduce_scatter"),
    "pipeline": Parallelism(pipeline=2, micro_batch_size=1),
    "all-forward": Parallelism(pipeline=2, micro_batch_size=1, pipeline_schedule="afab"),
    "both": Parallelism(tensor=2, pipeline=2, micro_batch_size=1, recompute_activations=True),
}

SMALL = attrs.evolve(NETWORK, num_layers=2)
LONG = attrs.evolve(TRAINING, duration=Steps(500), global_batch_size=4, validation_interval=50, validation_sequences=4)

BOUND_MB = 8
"""Far more than the allocator wanders, and far less than the 26 MB of one activation lost with every micro-batch:
400 steps × 4 micro-batches × 64 tokens × 64 channels × 4 bytes."""


class Watch(threading.Thread):
    """Notes the resident memory of every rank that this process starts from now on, step by step."""

    def __init__(self, scratch: Path) -> None:
        super().__init__()
        self.scratch = scratch
        # Such as torch's compiler keeps, with a rank's number in its environment if a test had given this process one.
        self.others = set(psutil.Process().children())
        self.ended = threading.Event()
        self.megabytes: dict[str, dict[int, float]] = defaultdict(dict)

    def run(self) -> None:
        while not self.ended.wait(0.05):
            step = sum(file.read_text().count("\n") for file in self.scratch.glob("*/metrics.jsonl"))
            for process in set(psutil.Process().children()) - self.others:
                try:
                    self.megabytes[process.environ()["RANK"]][step] = process.memory_info().rss / 1e6
                except (psutil.Error, KeyError):
                    # Not started yet, or gone.
                    continue

    def growth(self, rank: str) -> float:
        """Megabytes that a rank has grown by from step 100 on; its last moments, in which it sums up, left out."""
        steps = sorted(step for step in self.megabytes[rank] if 100 <= step < 500)
        assert steps[0] < 150
        assert steps[-1] > 450
        return self.megabytes[rank][steps[-1]] - self.megabytes[rank][steps[0]]


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
def test_memory_is_flat_and_its_peak_is_told(tmp_path, layout, capfd):
    tokens = write_tokens(tmp_path / "tokens", train=20_000, heldout=2_000)
    watch = Watch(tmp_path / "scratch")
    watch.start()
    try:
        what = section(LAYOUTS[layout], SMALL, LONG)
        result = trained(what, tokens, tmp_path / "scratch", forks=False, checkpoint_interval=100)
    finally:
        watch.ended.set()
        watch.join()

    growth = {rank: watch.growth(rank) for rank in watch.megabytes}
    assert len(growth) == LAYOUTS[layout].world_size
    assert max(growth.values()) < BOUND_MB, growth
    peaks = result.measurements["peak_memory_mb"]
    seen = [max(watch.megabytes[rank].values()) for rank in sorted(watch.megabytes)]
    assert peaks == pytest.approx(seen, abs=20)
    assert f"t-train: peak memory of its ranks: {', '.join(map(str, peaks))} MB\n" in capfd.readouterr().err
