"""Tokens per second of a training, as it is and compiled, against loops over the same model, batch and threads."""

import statistics
from pathlib import Path

import cases
import pytest
from cases import CASES
from peers import LAYOUTS, WARM_UP, causal_peers, compared_with_all


@pytest.fixture(scope="module")
def tokens(tmp_path_factory) -> Path:
    return cases.write_tokens(tmp_path_factory.mktemp("data") / "tokens")


@pytest.mark.parametrize("is_compiled", [False, True], ids=["as-it-is", "compiled"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("size", CASES)
def test_training_throughput(benchmark, tokens, tmp_path, size, layout, is_compiled):
    case, (ranks, threads) = CASES[size], LAYOUTS[layout]
    how = {"ranks": ranks, "threads": threads, "is_compiled": is_compiled}
    trained = benchmark.pedantic(cases.run, (case, tokens, tmp_path), how, rounds=1, iterations=1)
    ours = statistics.median(row["seconds"] for row in trained.timings[WARM_UP:])
    benchmark.extra_info |= compared_with_all(case, ours, causal_peers(case))
    print(f"\n{size} {layout}: {benchmark.extra_info}")
