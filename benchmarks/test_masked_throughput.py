"""Tokens per second of masked training against a plain transformers loop, and what MultiMaskLM costs beside it."""

import statistics
from pathlib import Path

import cases
import pytest
from cases import SEQUENCE_LENGTH, Case
from peers import LAYOUTS, MASKED, WARM_UP, compared_with_all, masked_peers

from llmrecipe import Bert, MaskedLM, MultiMaskLM, masking
from llmrecipe.recipe.kinds import Objective

CASES = {
    "2M": Case(network=Bert(hidden_size=128, num_layers=4, num_attention_heads=4), batch=8, steps=22),
    "9M": Case(network=Bert(hidden_size=320, num_layers=6, num_attention_heads=10), batch=8, steps=12),
    "90M": Case(network=Bert(hidden_size=768, num_layers=12, num_attention_heads=12), batch=4, steps=6),
}


@pytest.fixture(scope="module")
def tokens(tmp_path_factory) -> Path:
    return cases.write_tokens(tmp_path_factory.mktemp("data") / "tokens")


def seconds_of(case: Case, tokens: Path, scratch: Path, objective: Objective, ranks: int, threads: int) -> float:
    """The median step of ours."""
    trained = cases.run(case, tokens, scratch, objective=objective, ranks=ranks, threads=threads)
    return statistics.median(row["seconds"] for row in trained.timings[WARM_UP:])


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("size", CASES)
def test_masked_throughput(benchmark, tokens, tmp_path, size, layout):
    case = CASES[size]
    ours = benchmark.pedantic(
        seconds_of, (case, tokens, tmp_path / "ours", MASKED, *LAYOUTS[layout]), rounds=1, iterations=1
    )
    benchmark.extra_info |= compared_with_all(case, ours, masked_peers(case, tokens, tmp_path / "batches.npz"))
    print(f"\n{size} {layout}: {benchmark.extra_info}")


@pytest.mark.parametrize("size", CASES)
def test_multi_mask_overhead(benchmark, tokens, tmp_path, size):
    case, layout = CASES[size], LAYOUTS["1-rank-2-threads"]
    objectives = {
        "masked": MaskedLM(sequence_length=SEQUENCE_LENGTH, masking=masking.Spans()),
        "multi": MultiMaskLM(sequence_length=SEQUENCE_LENGTH),
    }
    seconds = {
        name: seconds_of(case, tokens, tmp_path / name, objective, *layout) for name, objective in objectives.items()
    }
    benchmark.pedantic(seconds_of, (case, tokens, tmp_path, objectives["multi"], *layout), rounds=1, iterations=1)
    benchmark.extra_info["overhead, %"] = round(100 * (seconds["multi"] / seconds["masked"] - 1), 1)
    print(f"\n{size}: {benchmark.extra_info}")
