"""What the training benchmarks train: random tokens, models of three sizes, and a training of a few steps."""

from pathlib import Path

import attrs
import numpy as np

from llmrecipe import AdamW, Bert, CausalLM, Llama, Parallelism, Runtime, Steps, Training, artifacts
from llmrecipe.engines.nanotron.launcher import Trained, train
from llmrecipe.recipe.objective import Objective
from llmrecipe.sections import PretrainSection

VOCAB_SIZE = 4096
SEQUENCE_LENGTH = 256
SEED = 1
CAUSAL = CausalLM(sequence_length=SEQUENCE_LENGTH)


@attrs.frozen(kw_only=True)
class Case:
    """A model, and how much of it a benchmark can afford."""

    model: Llama | Bert
    batch: int
    """Sequences of a step."""
    steps: int
    """Steps, of which the first two warm up."""

    @property
    def tokens_per_step(self) -> int:
        return self.batch * SEQUENCE_LENGTH


CASES = {
    "1M": Case(
        model=Llama(
            hidden_size=128, num_layers=4, num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=True
        ),
        batch=8,
        steps=22,
    ),
    "10M": Case(
        model=Llama(hidden_size=320, num_layers=6, num_attention_heads=10, num_key_value_heads=5),
        batch=8,
        steps=12,
    ),
    "100M": Case(
        model=Llama(hidden_size=768, num_layers=14, num_attention_heads=12, num_key_value_heads=12),
        batch=4,
        steps=6,
    ),
}


def write_tokens(directory: Path) -> Path:
    """A tokens artifact of random tokens."""
    splits = {}
    for name, count in (("train", 400_000), ("heldout", 4_000)):
        (directory / name).mkdir(parents=True)
        np.random.default_rng(0).integers(0, VOCAB_SIZE, count).astype("<u2").tofile(directory / name / "00000.ds")
        splits[name] = {"files": [f"{name}/00000.ds"], "tokens": count, "documents": 1, "text_bytes": count}
    description = {"dtype": "uint16", "vocab_size": VOCAB_SIZE, "end_of_text_id": 0, "splits": splits}
    description["masking"] = {"mask_token_id": 1, "special_ids": [0, 1], "continuing_ids": []}
    artifacts.write_json(directory / "tokens.json", description)
    artifacts.seal(directory, "tokens")
    return directory


def run(
    case: Case,
    tokens: Path,
    scratch: Path,
    *,
    ranks: int,
    threads: int,
    objective: Objective = CAUSAL,
) -> Trained:
    """Train the case on so many data-parallel ranks."""
    section = PretrainSection(
        model=case.model,
        objective=objective,
        training=Training(
            duration=Steps(case.steps),
            global_batch_size=case.batch,
            optimizer=AdamW(learning_rate=1e-3),
            validation_sequences=1,
            seed=SEED,
        ),
        parallelism=Parallelism(data=ranks, micro_batch_size=case.batch // ranks, threads_per_rank=threads),
    )
    runtime = Runtime(device="cpu", checkpoint_interval=case.steps)
    return train(section, name="benchmark", tokens=[tokens], runtime=runtime, scratch=scratch)
