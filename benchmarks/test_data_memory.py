"""The peak memory of prepare, tokenizer and tokenize, for corpora of three sizes, the largest on request."""

import contextlib
import os
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest
import yaml
from made_text import write_jsonl_quickly

from llmrecipe import ByteLevelBPE, Fraction, Machine, clean, codec, machines, source
from llmrecipe.sections import PrepareSection, TokenizerSection, TokenizeSection

SHARDS = 4
ON_REQUEST = pytest.mark.skipif("LARGE" not in os.environ, reason="takes long and 5 GB of disk; set LARGE=1")

STAGES = {
    "prepare": {"source0": "data"},
    "tokenizer": {"documents": "prepare/documents"},
    "tokenize": {"documents": "prepare/documents", "tokenizer": "tokenizer/tokenizer"},
}


class Watch(threading.Thread):
    """Notes the most memory that a process or one below it has, and all of them have at once."""

    def __init__(self, process: subprocess.Popen) -> None:
        super().__init__()
        self.process = psutil.Process(process.pid)
        self.ended = threading.Event()
        self.largest = self.together = 0.0

    def run(self) -> None:
        while not self.ended.wait(0.1):
            # What processes share counts once. One that ends between two looks is missed.
            with contextlib.suppress(psutil.Error):
                family = [self.process, *self.process.children(recursive=True)]
                self.largest = max(self.largest, *map(peak_of, family))
                self.together = max(self.together, sum(one.memory_full_info().pss for one in family) / 1e6)


def peak_of(process: psutil.Process) -> float:
    """The most memory that a process has had, in MB."""
    try:
        status = Path(f"/proc/{process.pid}/status").read_text()
    except FileNotFoundError:
        raise psutil.NoSuchProcess(process.pid) from None
    # A zombie has none.
    return int((status.partition("VmHWM:")[2].split() or ["0"])[0]) * 1024 / 1e6


def peak(project: Path, kind: str, inputs: dict[str, str]) -> tuple[float, float]:
    """Run a stage: the peak memory in MB of its largest process, and of all of them."""
    file = project / "params.yaml"
    sections = yaml.safe_load(file.read_text())
    sections[f"c-{kind}"]["inputs"] = inputs
    file.write_text(yaml.safe_dump(sections))
    command = [sys.executable, "-m", "llmrecipe", "stage", kind, "--name", f"c-{kind}"]
    stage = subprocess.Popen([*command, "--output", kind], cwd=project)
    watch = Watch(stage)
    watch.start()
    status = stage.wait()
    watch.ended.set()
    watch.join()
    assert status == 0
    return watch.largest, watch.together


@pytest.mark.parametrize("megabytes", [10, 100, pytest.param(1000, marks=ON_REQUEST)])
def test_peak_memory(benchmark, tmp_path, megabytes):
    for number in range(SHARDS):
        write_jsonl_quickly(tmp_path / f"data/{number}.jsonl", megabytes / SHARDS, seed=number)
    sections = {
        "c-prepare": PrepareSection(
            source=source.JsonlFiles(paths=("data/*.jsonl",)),
            clean=(clean.FixUnicode(), clean.ExactDedup()),
            heldout=Fraction(0.02),
            shards=SHARDS,
        ),
        "c-tokenizer": TokenizerSection(tokenizer=ByteLevelBPE(vocab_size=8192)),
        "c-tokenize": TokenizeSection(),
    }
    params = {name: codec.unstructure(section) for name, section in sections.items()}
    machine = Machine(workers=2, log_level="warning")
    params[machines.ENTRY] = {machines.DEFAULT: codec.unstructure(machine)}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))

    peaks = {}

    def run() -> None:
        for kind, inputs in STAGES.items():
            peaks[kind] = peak(tmp_path, kind, inputs)

    benchmark.pedantic(run, rounds=1, iterations=1)
    for kind, (largest, together) in peaks.items():
        benchmark.extra_info |= {f"{kind}, MB": round(largest), f"{kind}, all processes, MB": round(together)}
    print(f"\n{megabytes} MB: {benchmark.extra_info}")
