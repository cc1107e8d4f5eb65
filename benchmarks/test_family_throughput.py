"""Tokens per second of each family's training against a plain transformers loop of the same network."""

import statistics
from pathlib import Path

import cases
import pytest
from cases import CAUSAL, Case
from peers import LAYOUTS, MASKED, WARM_UP, compared, plain_masked_seconds, plain_seconds

from llmrecipe import Bert, Llama, Llama3RopeScaling, Mistral, ModernBert, Qwen2, Qwen3

SHAPE = {"hidden_size": 320, "num_layers": 6, "num_attention_heads": 10}
DECODER = {**SHAPE, "num_key_value_heads": 5}
NETWORKS = {
    "llama": Llama(**DECODER),
    "llama3": Llama(**DECODER, rope_scaling=Llama3RopeScaling(), tie_word_embeddings=True),
    "mistral": Mistral(**DECODER, sliding_window=64),
    "qwen2": Qwen2(**DECODER),
    "qwen3": Qwen3(**DECODER),
    "wide-heads": Qwen3(**DECODER, head_dim=64),
    "bert": Bert(**SHAPE),
    "modernbert": ModernBert(**SHAPE, local_attention=64),
}


@pytest.fixture(scope="module")
def tokens(tmp_path_factory) -> Path:
    return cases.write_tokens(tmp_path_factory.mktemp("data") / "tokens")


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", NETWORKS)
def test_family_throughput(benchmark, tokens, tmp_path, name, layout):
    case, (ranks, threads) = Case(network=NETWORKS[name], batch=8, steps=14), LAYOUTS[layout]
    is_masked = case.network.reads_both_sides
    options = {"objective": MASKED if is_masked else CAUSAL, "ranks": ranks, "threads": threads}
    trained = benchmark.pedantic(cases.run, (case, tokens, tmp_path / "ours"), options, rounds=1, iterations=1)
    ours = statistics.median(row["seconds"] for row in trained.timings[WARM_UP:])
    plain = plain_masked_seconds(case, tokens, tmp_path / "batches.npz") if is_masked else plain_seconds(case)
    benchmark.extra_info |= compared(case, ours, plain)
    print(f"\n{name} {layout}: {benchmark.extra_info}")
