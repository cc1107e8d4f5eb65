"""What the training benchmarks train: random tokens, networks of three sizes, and a run of a few steps."""

from pathlib import Path

import attrs
import numpy as np

from llmrecipe import CausalLM, Llama, Machine, Parallelism, Steps, Training, optimizer
from llmrecipe.cards import MaskingCard
from llmrecipe.engines.nanotron.launcher import FinishedRun, train
from llmrecipe.engines.tokens import writing
from llmrecipe.recipe.kinds import Objective
from llmrecipe.recipe.networks.network import Network
from llmrecipe.sections import TrainSection

VOCAB_SIZE = 4096
SEQUENCE_LENGTH = 256
SEED = 1
CAUSAL = CausalLM(sequence_length=SEQUENCE_LENGTH)


@attrs.frozen(kw_only=True)
class Case:
    """A network, and how much of it a benchmark can afford."""

    network: Network
    batch: int
    """Sequences of a step."""
    steps: int
    """Steps, of which the first two warm up."""

    @property
    def tokens_per_step(self) -> int:
        return self.batch * SEQUENCE_LENGTH


CASES = {
    "1M, few tokens": Case(
        network=Llama(
            hidden_size=128, num_layers=4, num_attention_heads=4, num_key_value_heads=4, tie_word_embeddings=True
        ),
        batch=3,
        steps=42,
    ),
    "1M": Case(
        network=Llama(
            hidden_size=128, num_layers=4, num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=True
        ),
        batch=8,
        steps=22,
    ),
    "10M": Case(
        network=Llama(hidden_size=320, num_layers=6, num_attention_heads=10, num_key_value_heads=5),
        batch=8,
        steps=12,
    ),
    "100M": Case(
        network=Llama(hidden_size=768, num_layers=14, num_attention_heads=12, num_key_value_heads=12),
        batch=4,
        steps=6,
    ),
}


def write_tokens(directory: Path) -> Path:
    """A tokens artifact of random tokens."""
    counts = {"train": 400_000, "heldout": 4_000}
    return writing.write_tokens(
        directory,
        {split: [np.random.default_rng(0).integers(0, VOCAB_SIZE, count)] for split, count in counts.items()},
        vocab_size=VOCAB_SIZE,
        masking=MaskingCard(mask_token_id=1, special_ids=(0, 1), continuing_ids=()),
    )


def run(
    case: Case,
    tokens: Path,
    scratch: Path,
    *,
    ranks: int,
    threads: int,
    objective: Objective = CAUSAL,
    compiled: bool | None = None,
) -> FinishedRun:
    """Train the case on so many data-parallel ranks; by default decoders of these sizes are compiled."""
    section = TrainSection(
        network=case.network,
        objective=objective,
        training=Training(
            duration=Steps(case.steps),
            global_batch_size=case.batch,
            optimizer=optimizer.AdamW(learning_rate=1e-3),
            validation_sequences=1,
            seed=SEED,
        ),
        parallelism=Parallelism(data=ranks, micro_batch_size=case.batch // ranks, threads_per_rank=threads),
    )
    return train(
        section,
        name="benchmark",
        tokens=[tokens],
        shares=(1.0,),
        start=None,
        machine=Machine(device="cpu", compile=compiled, checkpoint_interval=case.steps),
        scratch=scratch,
        events=scratch / "events",
    )
