"""Tokens per second of a training against a plain transformers loop of the same model, batch and threads."""

import json
import statistics
import subprocess
import sys
from pathlib import Path

import cases
import pytest
from cases import CASES, SEQUENCE_LENGTH, VOCAB_SIZE, Case

from llmrecipe.engines.models.architecture import architecture_of

WARM_UP = 2
LAYOUTS = {"1-rank-2-threads": (1, 2), "2-ranks-1-thread": (2, 1)}


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
    plain = statistics.median(_plain_seconds(case)[WARM_UP:])
    benchmark.extra_info |= {
        "parameters": case.network.num_parameters(VOCAB_SIZE),
        "tokens_per_second": round(case.tokens_per_step / ours),
        "plain_loop_tokens_per_second": round(case.tokens_per_step / plain),
        "ratio": round(plain / ours, 3),
    }
    print(f"\n{size} {layout}: {benchmark.extra_info}")


def _plain_seconds(case: Case) -> list[float]:
    """Seconds of the steps of the plain loop, which always has both cores."""
    config = architecture_of(case.network).transformers_config(case.network, VOCAB_SIZE, 0).to_dict()
    keys = (
        "vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads num_key_value_heads "
        "max_position_embeddings tie_word_embeddings rms_norm_eps rope_parameters"
    )
    chosen = json.dumps({key: config[key] for key in keys.split()})
    arguments = [str(number) for number in (case.steps, case.batch, SEQUENCE_LENGTH, 2)]
    loop = Path(__file__).with_name("plain_loop.py")
    output = subprocess.run([sys.executable, loop, chosen, *arguments], capture_output=True, text=True, check=True)
    return json.loads(output.stdout)
