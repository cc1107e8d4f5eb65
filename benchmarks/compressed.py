"""What the compression benchmarks make smaller: networks of two sizes with weights as first drawn, and random text.

How long it takes doesn't depend on what the weights are.
"""

import os
from pathlib import Path

import numpy as np
import pytest
import tiny_model
import torch
from transformers import LlamaForCausalLM

from llmrecipe import CausalLM, Llama
from llmrecipe.engines.models.architecture import architecture_of
from llmrecipe.engines.tokens import writing

SEQUENCE_LENGTH = 256

TOKENS = 320
"""That the tokenizer knows, the first of the network's."""

NETWORKS = {
    "7M": Llama(hidden_size=256, num_layers=8, num_attention_heads=8, num_key_value_heads=4, intermediate_size=768),
    # That of SmolLM2-135M.
    "135M": Llama(
        hidden_size=576,
        num_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        intermediate_size=1536,
        tie_word_embeddings=True,
    ),
}
VOCAB_SIZES = {"7M": 2048, "135M": 49_152}

SIZES = ["7M", pytest.param("135M", marks=pytest.mark.skipif("LARGE" not in os.environ, reason="long; set LARGE=1"))]


def make(size: str, directory: Path) -> dict[str, Path]:
    """A model artifact and tokens below `directory`, by role."""
    network = NETWORKS[size]
    torch.manual_seed(0)
    model = LlamaForCausalLM(architecture_of(network).transformers_config(network, VOCAB_SIZES[size], 0))
    tiny_model.write_tokenizer(directory / "tokenizer")
    objective = CausalLM(sequence_length=SEQUENCE_LENGTH)
    tokens = writing.write_tokens(
        directory / "tokens",
        {
            split: [np.random.default_rng(0).integers(0, TOKENS, count)]
            for split, count in (("train", 100_000), ("heldout", 4_000))
        },
        vocab_size=TOKENS,
        tokenizer=tiny_model.TOKENIZER,
    )
    source = tiny_model.write_model(
        model, directory / "tokenizer", directory / "model", network=network, objective=objective
    )
    return {"model": source, "tokens": tokens}
