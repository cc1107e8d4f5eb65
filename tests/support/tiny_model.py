"""A model that has learned a little, its tokenizer and its token files, made in seconds from the standard library."""

import argparse
import json
import optparse
import textwrap
from pathlib import Path

import numpy as np
import torch
from llmrecipe.recipe.runtime import Runtime
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from llmrecipe import artifacts
from llmrecipe.engines.models import folders
from llmrecipe.stages.runner import StageContext

END_OF_TEXT = "<|endoftext|>"
SEQUENCE_LENGTH = 32


def stage_context(section, inputs: dict[str, Path], output: Path, **runtime) -> StageContext:
    """What the runner gives a stage, with an empty output folder."""
    output.mkdir(parents=True)
    return StageContext(
        name="tiny-stage",
        section=section,
        inputs=inputs,
        output=output,
        runtime=Runtime(**runtime),
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


def write_tokens(directory: Path, splits: dict[str, list[list[str]]], tokenizer) -> Path:
    """A sealed tokens artifact, laid out by hand: per split a list of shards, each a list of documents."""
    description = {"dtype": "uint16", "vocab_size": len(tokenizer), "end_of_text_id": tokenizer.eos_token_id}
    description["splits"] = {}
    for split, shards in splits.items():
        (directory / split).mkdir(parents=True)
        names, total = [], 0
        for index, shard in enumerate(shards):
            row = [i for text in shard for i in [*tokenizer(text)["input_ids"], tokenizer.eos_token_id]]
            names.append(f"{split}/{index:05d}.ds")
            np.array(row, dtype="<u2").tofile(directory / names[-1])
            total += len(row)
        texts = [text for shard in shards for text in shard]
        description["splits"][split] = {
            "files": names,
            "tokens": total,
            "documents": len(texts),
            "text_bytes": sum(len(text.encode()) for text in texts),
        }
    artifacts.write_json(directory / "tokens.json", description)
    artifacts.seal(directory, "tokens")
    return directory


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
    files = json.loads((tokens / "tokens.json").read_text())["splits"]["train"]["files"]
    row = torch.from_numpy(np.concatenate([np.fromfile(tokens / name, "<u2") for name in files]).astype(np.int64))
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(steps):
        starts = torch.randint(len(row) - SEQUENCE_LENGTH, (16,), generator=generator).tolist()
        batch = torch.stack([row[start : start + SEQUENCE_LENGTH] for start in starts])
        optimizer.zero_grad()
        model(input_ids=batch, labels=batch).loss.backward()
        optimizer.step()


def write_model(model: LlamaForCausalLM, tokenizer: Path, directory: Path) -> Path:
    """A sealed model artifact."""
    folders.save_model(model, tokenizer, directory)
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
