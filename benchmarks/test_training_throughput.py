"""Tokens per second of a training against a plain transformers loop of the same model, batch and threads."""

import statistics
from pathlib import Path

import cases
import pytest
from cases import CASES
from peers import LAYOUTS, WARM_UP, compared, plain_seconds


@pytest.fixture(scope="module")
def tokens(tmp_path_factory) -> Path:
    return cases.write_tokens(tmp_path_factory.mktemp("data") / "tokens")


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("size", CASES)
def test_training_throughput(benchmark, tokens, tmp_path, size, layout):
    case, (ranks, threads) = CASES[size], LAYOUTS[layout]
    trained = benchmark.pedantic(
        cases.run, (case, tokens, tmp_path), {"ranks": ranks, "threads": threads}, rounds=1, iterations=1
    )
    ours = statistics.median(row["seconds"] for row in trained.timings[WARM_UP:])
    benchmark.extra_info |= compared(case, ours, plain_seconds(case))
    print(f"\n{size} {layout}: {benchmark.extra_info}")
