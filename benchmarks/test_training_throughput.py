"""Tokens per second of a training against a plain transformers loop of the same model, batch and threads."""

import json
import statistics
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from llmrecipe import AdamW, CausalLM, Llama, Parallelism, Runtime, Steps, Training, artifacts
from llmrecipe.engines.nanotron import llama
from llmrecipe.engines.nanotron.training import train
from llmrecipe.sections import PretrainSection

VOCAB_SIZE = 4096
SEQUENCE_LENGTH = 256
BATCH = 8
STEPS = 12
WARM_UP = 2

SIZES = {
    "4M": Llama(hidden_size=256, num_layers=4, num_attention_heads=8, num_key_value_heads=4, tie_word_embeddings=True),
    "10M": Llama(hidden_size=320, num_layers=6, num_attention_heads=10, num_key_value_heads=5),
}
LAYOUTS = {"1-rank-2-threads": (1, 2), "2-ranks-1-thread": (2, 1)}


@pytest.fixture(scope="module")
def tokens(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("data") / "tokens"
    splits = {}
    for name, count in (("train", 400_000), ("heldout", 4_000)):
        (directory / name).mkdir(parents=True)
        np.random.default_rng(0).integers(0, VOCAB_SIZE, count).astype("<u2").tofile(directory / name / "00000.ds")
        splits[name] = {"files": [f"{name}/00000.ds"], "tokens": count, "documents": 1, "text_bytes": count}
    description = {"dtype": "uint16", "vocab_size": VOCAB_SIZE, "end_of_text_id": 0, "splits": splits}
    artifacts.write_json(directory / "tokens.json", description)
    artifacts.seal(directory, "tokens")
    return directory


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("size", SIZES)
def test_training_throughput(benchmark, tokens, tmp_path, size, layout):
    ranks, threads = LAYOUTS[layout]
    ours = benchmark.pedantic(_ours, args=(SIZES[size], tokens, tmp_path, ranks, threads), rounds=1, iterations=1)
    plain = _plain(SIZES[size])
    tokens_per_step = BATCH * SEQUENCE_LENGTH
    benchmark.extra_info |= {
        "parameters": SIZES[size].num_parameters(VOCAB_SIZE),
        "tokens_per_second": round(tokens_per_step / ours),
        "plain_loop_tokens_per_second": round(tokens_per_step / plain),
        "ratio": round(plain / ours, 3),
    }
    print(f"\n{size} {layout}: {benchmark.extra_info}")


def _ours(model: Llama, tokens: Path, scratch: Path, ranks: int, threads: int) -> float:
    """Median seconds of a step of ours."""
    section = PretrainSection(
        model=model,
        objective=CausalLM(sequence_length=SEQUENCE_LENGTH),
        training=Training(duration=Steps(STEPS), global_batch_size=BATCH, optimizer=AdamW(learning_rate=1e-3)),
        parallelism=Parallelism(data=ranks, micro_batch_size=BATCH // ranks),
    )
    runtime = Runtime(device="cpu", threads_per_rank=threads, checkpoint_interval=STEPS)
    trained = train(section, name="benchmark", tokens=tokens, runtime=runtime, scratch=scratch)
    return statistics.median(row["seconds"] for row in trained.timings[WARM_UP:])


def _plain(model: Llama) -> float:
    """Median seconds of a step of the plain loop, which always has both cores."""
    config = llama.transformers_config(model, VOCAB_SIZE, 0).to_dict()
    keys = (
        "vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads num_key_value_heads "
        "max_position_embeddings tie_word_embeddings rms_norm_eps rope_parameters"
    )
    chosen = json.dumps({key: config[key] for key in keys.split()})
    arguments = [str(number) for number in (STEPS, BATCH, SEQUENCE_LENGTH, 2)]
    loop = Path(__file__).with_name("plain_loop.py")
    output = subprocess.run([sys.executable, loop, chosen, *arguments], capture_output=True, text=True, check=True)
    return statistics.median(json.loads(output.stdout)[WARM_UP:])
