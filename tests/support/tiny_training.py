"""A run of seconds on made tokens, through the engine that the train stage uses."""

from contextlib import nullcontext
from pathlib import Path

import attrs
import numpy as np
from forked_ranks import forked_ranks

from llmrecipe import CausalLM, Llama, Machine, Parallelism, Steps, Training
from llmrecipe.cards import MaskingCard
from llmrecipe.engines.nanotron.launcher import FinishedRun, train
from llmrecipe.engines.tokens import writing
from llmrecipe.recipe.networks.network import Network
from llmrecipe.recipe.optimizer import SGD, AdamW
from llmrecipe.recipe.schedule import Constant, Cosine
from llmrecipe.sections import TrainSection

VOCAB_SIZE = 500
NETWORK = Llama(hidden_size=64, num_layers=4, num_attention_heads=4, num_key_value_heads=2, rope_theta=50_000.0)
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

SHORT = attrs.evolve(TRAINING, duration=Steps(4), validation_interval=2)
STILL = attrs.evolve(
    SHORT,
    duration=Steps(1),
    optimizer=SGD(learning_rate=1e-30),
    schedule=Constant(warmup=Steps(0)),
    clip_grad_norm=None,
)
"""A step that changes no weight."""

MASKING = MaskingCard(mask_token_id=4, special_ids=(0, 1, 2, 3, 4), continuing_ids=tuple(range(6, VOCAB_SIZE, 3)))
"""A mask token, and every third token going on with a word."""

SPECIAL_TOKENS = {"<|fim_prefix|>": 497, "<|fim_middle|>": 498, "<|fim_suffix|>": 499}
"""Those of `FillInTheMiddle`."""


def write_tokens(
    directory: Path,
    *,
    end_of_text_id: int = 0,
    masking: MaskingCard | None = None,
    tokenizer: str = "",
    vocab_size: int = VOCAB_SIZE,
    **counts: int,
) -> Path:
    """A tokens artifact of a language that can be learned: rising runs from random starts."""
    splits = {}
    for name, count in counts.items():
        starts = np.random.default_rng(len(name)).integers(0, 64, (count // 50 + 1, 1))
        splits[name] = [((starts + np.arange(50)) % VOCAB_SIZE).reshape(-1)[:count]]
    return writing.write_tokens(
        directory,
        splits,
        vocab_size=vocab_size,
        end_of_text_id=end_of_text_id,
        special_tokens={name: number for name, number in SPECIAL_TOKENS.items() if number < vocab_size},
        masking=masking,
        tokenizer=tokenizer,
    )


def section(
    parallelism: Parallelism | None = None, network: Network | None = NETWORK, training: Training = TRAINING
) -> TrainSection:
    return TrainSection(
        network=network,
        objective=CausalLM(sequence_length=LENGTH),
        training=training,
        parallelism=parallelism or Parallelism(micro_batch_size=4),
    )


def trained(
    what: TrainSection,
    tokens: Path | list[Path],
    scratch: Path,
    *,
    shares: tuple[float, ...] = (1.0,),
    start: Path | None = None,
    forks: bool = True,
    **machine,
) -> FinishedRun:
    """A finished run, whose ranks are forked, or else started as a stage does."""
    with forked_ranks() if forks else nullcontext():
        return train(
            what,
            name="t-train",
            tokens=tokens if isinstance(tokens, list) else [tokens],
            shares=shares,
            start=start,
            machine=Machine(device="cpu", **machine),
            scratch=scratch,
            events=scratch / "train.events",
        )


def column(result: FinishedRun, name: str) -> list[float]:
    return [row[name] for row in result.metrics if name in row]
