"""A model that has learned a little, its tokenizer and its token files, made in seconds from the standard library."""

import argparse
import optparse
import textwrap
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from llmrecipe import artifacts, cards
from llmrecipe.cards import ModelCard
from llmrecipe.engines.models import folders
from llmrecipe.engines.tokens import writing
from llmrecipe.engines.tokens.files import TokenFiles
from llmrecipe.recipe.kinds import Objective
from llmrecipe.recipe.machine import Machine
from llmrecipe.recipe.networks.llama import Llama
from llmrecipe.recipe.networks.network import Network
from llmrecipe.recipe.objective import CausalLM
from llmrecipe.stages.runner import StageContext

END_OF_TEXT = "<|endoftext|>"
SEQUENCE_LENGTH = 32

TOKENIZER = "0" * 64
"""Digest of the tokenizer, by which models and tokens know that they go together."""

NETWORK = Llama(hidden_size=64, num_layers=2, num_attention_heads=4, num_key_value_heads=2, intermediate_size=128)
"""The shape of `new_model`."""

OBJECTIVE = CausalLM(sequence_length=SEQUENCE_LENGTH)
"""What it learns."""


def stage_context(section, inputs: dict[str, Path], output: Path, **machine) -> StageContext:
    """What the runner gives a stage."""
    (output / "scratch").mkdir(parents=True)
    return StageContext(
        name="tiny-stage",
        section=section,
        inputs=inputs,
        output=output,
        machine=Machine(**machine),
        scratch=output / "scratch",
    )


def documents(module) -> list[str]:
    """A module's source as documents of 40 lines."""
    lines = Path(module.__file__).read_text(encoding="utf-8").splitlines(keepends=True)
    return ["".join(lines[start : start + 40]) for start in range(0, len(lines), 40)]


def write_tokenizer(directory: Path, vocab_size: int = 320) -> PreTrainedTokenizerFast:
    """A byte-level BPE trained on `textwrap`."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=[END_OF_TEXT], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(documents(textwrap), trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END_OF_TEXT, bos_token=END_OF_TEXT)
    fast.save_pretrained(directory)
    return fast


def write_tokens(directory: Path, splits: dict[str, list[list[str]]], tokenizer, masking=None) -> Path:
    """A sealed tokens artifact, laid out by hand: per split a list of shards, each a list of documents."""

    def tokens_of(shard: list[str]) -> np.ndarray:
        return np.array([i for text in shard for i in [*tokenizer(text)["input_ids"], tokenizer.eos_token_id]])

    return writing.write_tokens(
        directory,
        {split: [tokens_of(shard) for shard in shards] for split, shards in splits.items()},
        vocab_size=len(tokenizer),
        end_of_text_id=tokenizer.eos_token_id,
        masking=masking,
        tokenizer=TOKENIZER,
        text_bytes={
            split: [[len(text.encode()) for text in shard] for shard in shards] for split, shards in splits.items()
        },
    )


def new_model(**changes) -> LlamaForCausalLM:
    """A Llama with random weights, its vocabulary padded beyond the tokenizer's."""
    torch.manual_seed(0)
    config = {
        "vocab_size": 384,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "bos_token_id": 0,
        "eos_token_id": 0,
    }
    return LlamaForCausalLM(LlamaConfig(**config | changes))


def train(model: LlamaForCausalLM, tokens: Path, steps: int) -> None:
    """A plain training loop over the train split, file by file."""
    row = torch.from_numpy(np.concatenate(TokenFiles.open(tokens, "train").shards).astype(np.int64))
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(steps):
        starts = torch.randint(len(row) - SEQUENCE_LENGTH, (16,), generator=generator).tolist()
        batch = torch.stack([row[start : start + SEQUENCE_LENGTH] for start in starts])
        optimizer.zero_grad()
        model(input_ids=batch, labels=batch).loss.backward()
        optimizer.step()


def write_model(
    model: LlamaForCausalLM,
    tokenizer: Path,
    directory: Path,
    *,
    network: Network = NETWORK,
    objective: Objective = OBJECTIVE,
    tokenizer_digest: str = TOKENIZER,
) -> Path:
    """A sealed model artifact."""
    folders.save_model(model, tokenizer, directory)
    card = ModelCard(
        network=network,
        objective=objective,
        vocab_size=320,
        end_of_text_id=0,
        tokenizer=tokenizer_digest,
        made_by="export",
        parents={},
    )
    cards.write(directory, card)
    artifacts.seal(directory, "model")
    return directory


def make(directory: Path, **config) -> dict[str, Path]:
    """A trained model and its tokens below `directory`, by role."""
    torch.set_num_threads(1)
    tokenizer = write_tokenizer(directory / "tokenizer")
    texts = documents(argparse)
    splits = {"train": [texts[:40], texts[40:]], "heldout": [documents(optparse)[:20]]}
    tokens = write_tokens(directory / "tokens", splits, tokenizer)
    model = new_model(**config)
    train(model, tokens, steps=120)
    return {"model": write_model(model, directory / "tokenizer", directory / "model"), "tokens": tokens}
