"""Tokens per second of masked training against a plain transformers loop, and what MultiMaskLM costs beside it."""

from pathlib import Path

import cases
import pytest
from cases import SEQUENCE_LENGTH, Case
from peers import LAYOUTS, MASKED, compared_with_all, masked_peers, our_seconds

from llmrecipe import Bert, MaskedLM, MultiMaskLM, masking

CASES = {
    "2M": Case(network=Bert(hidden_size=128, num_layers=4, num_attention_heads=4), batch=8, steps=22),
    "9M": Case(network=Bert(hidden_size=320, num_layers=6, num_attention_heads=10), batch=8, steps=12),
    "90M": Case(network=Bert(hidden_size=768, num_layers=12, num_attention_heads=12), batch=4, steps=6),
}


@pytest.fixture(scope="module")
def tokens(tmp_path_factory) -> Path:
    return cases.write_tokens(tmp_path_factory.mktemp("data") / "tokens")


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("size", CASES)
def test_masked_throughput(benchmark, tokens, tmp_path, size, layout):
    case, masked = CASES[size], {"objective": MASKED}
    ours = benchmark.pedantic(our_seconds, (case, tokens, tmp_path / "ours", layout), masked, rounds=1, iterations=1)
    not_compiled = our_seconds(case, tokens, tmp_path / "not-compiled", layout, compiled=False, **masked)
    peers = masked_peers(case, tokens, tmp_path / "batches.npz")
    benchmark.extra_info |= compared_with_all(case, ours, not_compiled, peers)
    print(f"\n{size} {layout}: {benchmark.extra_info}")


@pytest.mark.parametrize("size", CASES)
def test_multi_mask_overhead(benchmark, tokens, tmp_path, size):
    case, layout = CASES[size], "1-rank-2-threads"
    objectives = {
        "masked": MaskedLM(sequence_length=SEQUENCE_LENGTH, masking=masking.Spans()),
        "multi": MultiMaskLM(sequence_length=SEQUENCE_LENGTH),
    }
    seconds = {
        name: our_seconds(case, tokens, tmp_path / name, layout, objective=objective)
        for name, objective in objectives.items()
    }
    again = {"objective": objectives["multi"]}
    benchmark.pedantic(our_seconds, (case, tokens, tmp_path, layout), again, rounds=1, iterations=1)
    benchmark.extra_info["overhead, %"] = round(100 * (seconds["multi"] / seconds["masked"] - 1), 1)
    print(f"\n{size}: {benchmark.extra_info}")
