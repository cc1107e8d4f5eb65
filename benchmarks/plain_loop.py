"""The peer: a plain transformers training loop, run as a process of its own with a given number of threads.

usage: python plain_loop.py MODEL_JSON STEPS BATCH SEQUENCE_LENGTH THREADS
Prints the seconds of each step as a JSON list.
"""

import json
import sys
import time

import torch
from transformers import LlamaConfig, LlamaForCausalLM


def main() -> None:
    """Train on random tokens and print the seconds of each step."""
    config = json.loads(sys.argv[1])
    steps, batch, sequence_length, threads = map(int, sys.argv[2:])
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**config, attn_implementation="sdpa"))
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1)
    seconds = []
    for _ in range(steps):
        tokens = torch.randint(0, config["vocab_size"], (batch, sequence_length + 1))
        started = time.perf_counter()
        logits = model(input_ids=tokens[:, :-1], use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), tokens[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        loss.item()
        seconds.append(time.perf_counter() - started)
    print(json.dumps(seconds))


if __name__ == "__main__":
    main()
