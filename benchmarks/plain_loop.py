"""The peer: a plain transformers training loop, run as a process of its own with a given number of threads.

usage: python plain_loop.py MODEL_JSON STEPS BATCH SEQUENCE_LENGTH THREADS COMPILED
`COMPILED` is 0 or 1. Prints the seconds of each step as a JSON list.
"""

import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel


def main() -> None:
    """Train on random tokens and print the seconds of each step."""
    config = json.loads(sys.argv[1])
    steps, batch, sequence_length, threads, compiled = map(int, sys.argv[2:])
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config), attn_implementation="sdpa")
    if compiled:
        model.compile()
    print(json.dumps(train(model, causal_loss, random_batches(config["vocab_size"], steps, batch, sequence_length))))


def random_batches(vocab_size: int, steps: int, batch: int, length: int) -> Iterator[torch.Tensor]:
    """A batch of tokens for each step, `[batch, length + 1]`."""
    return (torch.randint(0, vocab_size, (batch, length + 1)) for _ in range(steps))


def causal_loss(model: PreTrainedModel, tokens: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy of all tokens `[batch, length + 1]` but the first."""
    logits = model(input_ids=tokens[:, :-1], use_cache=False).logits
    return nn.functional.cross_entropy(logits.flatten(0, 1).float(), tokens[:, 1:].flatten())


def train(
    model: nn.Module,
    loss_of: Callable[[Any, Any], torch.Tensor],
    batches: Iterable[Any],
    *,
    fused: bool | None = None,
) -> list[float]:
    """Seconds of the step on each batch; making the batch doesn't count."""
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1, fused=fused)
    seconds = []
    for batch in batches:
        started = time.perf_counter()
        loss = loss_of(model, batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        loss.item()
        seconds.append(time.perf_counter() - started)
    return seconds


if __name__ == "__main__":
    main()
