"""Tokens per second of masked training against a plain transformers loop, and what MultiMaskLM costs beside it."""

import json
import statistics
import subprocess
import sys
from pathlib import Path

import cases
import numpy as np
import pytest
from cases import SEQUENCE_LENGTH, VOCAB_SIZE, Case

from llmrecipe import Bert, MaskedLM, MultiMaskLM, masking
from llmrecipe.engines.models.architecture import architecture_of
from llmrecipe.engines.tokens.masking import mask
from llmrecipe.engines.tokens.mixture import TokenMixture
from llmrecipe.recipe.kinds import Objective

WARM_UP = 2
LAYOUTS = {"1-rank-2-threads": (1, 2), "2-ranks-1-thread": (2, 1)}
OBJECTIVE = MaskedLM(sequence_length=SEQUENCE_LENGTH)
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
        seconds_of, (case, tokens, tmp_path / "ours", OBJECTIVE, *LAYOUTS[layout]), rounds=1, iterations=1
    )
    plain = statistics.median(_plain_seconds(case, tokens, tmp_path / "batches.npz")[WARM_UP:])
    benchmark.extra_info |= {
        "parameters": case.network.num_parameters(VOCAB_SIZE),
        "tokens_per_second": round(case.tokens_per_step / ours),
        "plain_loop_tokens_per_second": round(case.tokens_per_step / plain),
        "ratio": round(plain / ours, 3),
    }
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


def _plain_seconds(case: Case, tokens: Path, batches: Path) -> list[float]:
    """Seconds of the steps of the plain loop, which always has both cores, on our batches with our masks."""
    files = TokenMixture.open([tokens], "train", (1.0,))
    samples = files.order(SEQUENCE_LENGTH, cases.SEED).samples(0, case.steps * case.batch)
    input_ids, labels = np.full((2, len(samples), SEQUENCE_LENGTH), -100, dtype=np.int64)
    for index, (window, epoch) in enumerate(samples):
        row = files.window(window, SEQUENCE_LENGTH)[:-1]
        options = {"seed": cases.SEED, "epoch": epoch, "window": window}
        masked = mask(row, OBJECTIVE, files.masked_vocabulary, **options)
        input_ids[index] = masked.input_ids
        labels[index, masked.positions] = row[masked.positions]
    shape = (case.steps, case.batch, SEQUENCE_LENGTH)
    np.savez(batches, input_ids=input_ids.reshape(shape), labels=labels.reshape(shape))

    config = architecture_of(case.network).transformers_config(case.network, VOCAB_SIZE, 0).to_dict()
    keys = (
        "vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads max_position_embeddings "
        "layer_norm_eps pad_token_id"
    )
    # The recipe's; transformers' own default is 0.1.
    without_dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    chosen = json.dumps({key: config[key] for key in keys.split()} | without_dropout)
    loop = Path(__file__).with_name("plain_masked_loop.py")
    arguments = [sys.executable, loop, chosen, batches, "2"]
    output = subprocess.run(arguments, capture_output=True, text=True, check=True)
    return json.loads(output.stdout)
