"""A peer without a library: the same Llama in plain torch, as nanoGPT writes its GPT, with a fused optimizer.

usage: python bare_loop.py MODEL_JSON STEPS BATCH SEQUENCE_LENGTH THREADS COMPILED
`MODEL_JSON` is that of transformers. `COMPILED` is 0 or 1. Prints the seconds of each step as a JSON list.
"""

import json
import sys
from typing import Any

import torch
from plain_loop import random_batches, train
from torch import nn
from torch.nn import functional


class Layer(nn.Module):
    """Attention and a gated feed-forward layer, with their norms."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        width, inner, self.eps = config["hidden_size"], config["intermediate_size"], config["rms_norm_eps"]
        self.heads, self.key_value_heads = config["num_attention_heads"], config["num_key_value_heads"]
        self.size = config["head_dim"] or width // self.heads
        self.norms = nn.ParameterList(torch.ones(width) for _ in range(2))
        self.query_key_value = nn.Linear(width, (self.heads + 2 * self.key_value_heads) * self.size, bias=False)
        self.output = nn.Linear(self.heads * self.size, width, bias=False)
        self.gate_up = nn.Linear(width, 2 * inner, bias=False)
        self.down = nn.Linear(inner, width, bias=False)

    def forward(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        """`[batch, length, width]` to the same."""
        batch, length, width = x.shape
        read = functional.rms_norm(x, (width,), self.norms[0], self.eps)
        heads = self.query_key_value(read).view(batch, length, -1, self.size).transpose(1, 2)
        query, key, value = heads.split((self.heads, self.key_value_heads, self.key_value_heads), dim=1)
        query, key = (rotated(part, cos, sin) for part in (query, key))
        is_grouped = self.heads != self.key_value_heads
        attended = functional.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=is_grouped)
        x = x + self.output(attended.transpose(1, 2).reshape(batch, length, -1))
        gate, up = self.gate_up(functional.rms_norm(x, (width,), self.norms[1], self.eps)).chunk(2, dim=-1)
        return x + self.down(functional.silu(gate) * up)


class Llama(nn.Module):
    """Tokens `[batch, length + 1]` to the mean cross-entropy of all but the first."""

    def __init__(self, config: dict[str, Any], length: int) -> None:
        super().__init__()
        width, vocabulary, self.eps = config["hidden_size"], config["vocab_size"], config["rms_norm_eps"]
        self.embedding = nn.Embedding(vocabulary, width)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config["num_hidden_layers"]))
        self.norm = nn.Parameter(torch.ones(width))
        self.head = nn.Linear(width, vocabulary, bias=False)
        if config["tie_word_embeddings"]:
            self.head.weight = self.embedding.weight
        size = self.layers[0].size
        angles = torch.outer(torch.arange(length), 10_000.0 ** -(torch.arange(0, size, 2) / size))
        self.register_buffer("cos", angles.cos())
        self.register_buffer("sin", angles.sin())
        for parameter in self.parameters():
            if parameter.dim() == 2:
                nn.init.normal_(parameter, std=0.02)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """The loss."""
        x = self.embedding(tokens[:, :-1])
        for layer in self.layers:
            x = layer(x, self.cos, self.sin)
        logits = self.head(functional.rms_norm(x, x.shape[-1:], self.norm, self.eps))
        return functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())


def rotated(heads: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """`[batch, heads, length, size]`, rotated in pairs half a head apart."""
    first, second = heads.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


def main() -> None:
    """Train on random tokens and print the seconds of each step."""
    config = json.loads(sys.argv[1])
    steps, batch, length, threads, compiled = map(int, sys.argv[2:])
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    model = Llama(config, length)
    if compiled:
        model.compile()
    batches = random_batches(config["vocab_size"], steps, batch, length)
    print(json.dumps(train(model, lambda model, tokens: model(tokens), batches, fused=True)))


if __name__ == "__main__":
    main()
