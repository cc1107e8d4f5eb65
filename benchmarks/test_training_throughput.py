"""Tokens per second of a training against loops over the same model, batch and threads."""

from pathlib import Path

import cases
import pytest
from cases import CASES
from peers import LAYOUTS, causal_peers, compared_with_all, our_seconds


@pytest.fixture(scope="module")
def tokens(tmp_path_factory) -> Path:
    return cases.write_tokens(tmp_path_factory.mktemp("data") / "tokens")


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("size", CASES)
def test_training_throughput(benchmark, tokens, tmp_path, size, layout):
    case = CASES[size]
    ours = benchmark.pedantic(our_seconds, (case, tokens, tmp_path / "ours", layout), rounds=1, iterations=1)
    not_compiled = our_seconds(case, tokens, tmp_path / "not-compiled", layout, compiled=False)
    benchmark.extra_info |= compared_with_all(case, ours, not_compiled, causal_peers(case))
    print(f"\n{size} {layout}: {benchmark.extra_info}")
