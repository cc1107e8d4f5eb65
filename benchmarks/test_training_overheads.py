"""What each layer that llmrecipe puts around nanotron costs, as a share of a step; and a checkpoint's stall."""

import functools
import json
from pathlib import Path

import cases
import pytest
from cases import CASES

from llmrecipe import Machine
from llmrecipe.engines.nanotron import launcher


@pytest.mark.parametrize("size", CASES)
def test_training_overheads(benchmark, tmp_path, monkeypatch, size):
    case, run_ranks = CASES[size], launcher.run_ranks
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    monkeypatch.setattr(
        launcher, "run_ranks", lambda name, _, arguments, **options: run_ranks(name, "timed_rank", arguments, **options)
    )
    tokens = cases.write_tokens(tmp_path / "tokens")
    train = functools.partial(cases.run, case, tokens, tmp_path / "scratch", ranks=1, threads=2)
    benchmark.pedantic(train, rounds=1, iterations=1)

    parts = json.loads(next(tmp_path.glob("scratch/*/parts.json")).read_text())
    in_a_step = ("forward and backward", "clipping", "optimizer")
    metrics = parts["metrics"] - parts["validation"]
    step = parts["step"] + metrics
    percent = {
        "loader": parts["loader"] / step,
        "metrics": metrics / step,
        # What a step does beside forward, backward, clipping and update: the digest, the look at loss and norm.
        "adapter": (parts["step"] - sum(parts[name] for name in in_a_step)) / step,
        # One checkpoint, the only one of this run, in as many steps as a training takes between two.
        "checkpoint at the default interval": parts["checkpoint"] / (step / case.steps * Machine().checkpoint_interval),
    }
    benchmark.extra_info |= {f"{name}, %": round(100 * share, 2) for name, share in percent.items()}
    print(f"\n{size}: {benchmark.extra_info}")
