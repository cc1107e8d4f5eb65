"""A training of seconds on made tokens, through the engine that the pretrain stage uses."""

from contextlib import nullcontext
from pathlib import Path

import numpy as np
from forked_ranks import forked_ranks

from llmrecipe import AdamW, CausalLM, Cosine, Llama, Parallelism, Runtime, Steps, Training, artifacts
from llmrecipe.engines.nanotron.launcher import Trained, train
from llmrecipe.sections import PretrainSection

VOCAB_SIZE = 500
MODEL = Llama(hidden_size=64, num_layers=4, num_attention_heads=4, num_key_value_heads=2, rope_theta=50_000.0)
TRAINING = Training(
    duration=Steps(10),
    global_batch_size=8,
    optimizer=AdamW(learning_rate=1e-3),
    schedule=Cosine(warmup=Steps(3)),
    seed=1,
    validation_interval=5,
    validation_sequences=10,
)
LENGTH = 64


MASKING = {"mask_token_id": 4, "special_ids": [0, 1, 2, 3, 4], "continuing_ids": list(range(6, VOCAB_SIZE, 3))}
"""A mask token, and every third token going on with a word, as `tokens.json` says it."""


SPECIAL_TOKENS = {"<|fim_prefix|>": 497, "<|fim_middle|>": 498, "<|fim_suffix|>": 499}
"""Those of `FillInTheMiddle`."""


def write_tokens(directory: Path, *, end_of_text_id: int = 0, masking: dict | None = None, **counts: int) -> Path:
    """A tokens artifact of a language that can be learned: rising runs from random starts."""
    splits = {}
    for name, count in counts.items():
        (directory / name).mkdir(parents=True)
        starts = np.random.default_rng(len(name)).integers(0, 64, (count // 50 + 1, 1))
        row = ((starts + np.arange(50)) % VOCAB_SIZE).reshape(-1)[:count].astype("<u2")
        row.tofile(directory / name / "00000.ds")
        splits[name] = {"files": [f"{name}/00000.ds"], "tokens": count, "documents": 1, "text_bytes": count}
    description = {"dtype": "uint16", "vocab_size": VOCAB_SIZE, "end_of_text_id": end_of_text_id, "splits": splits}
    description["special_tokens"] = SPECIAL_TOKENS
    if masking:
        description["masking"] = masking
    artifacts.write_json(directory / "tokens.json", description)
    artifacts.seal(directory, "tokens")
    return directory


def section(
    parallelism: Parallelism | None = None, model: Llama = MODEL, training: Training = TRAINING
) -> PretrainSection:
    return PretrainSection(
        model=model,
        objective=CausalLM(sequence_length=LENGTH),
        training=training,
        parallelism=parallelism or Parallelism(micro_batch_size=4),
    )


def trained(
    what: PretrainSection, tokens: Path | list[Path], scratch: Path, *, forks: bool = True, **runtime
) -> Trained:
    """A finished training, whose ranks are forked, or else started as a stage does."""
    directories = tokens if isinstance(tokens, list) else [tokens]
    with forked_ranks() if forks else nullcontext():
        return train(
            what, name="t-pretrain", tokens=directories, runtime=Runtime(device="cpu", **runtime), scratch=scratch
        )


def column(result, name: str) -> list[float]:
    return [row[name] for row in result.metrics if name in row]
