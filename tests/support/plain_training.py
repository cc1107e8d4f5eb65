"""The training of `tiny_training` written down by hand, with transformers' Llama and torch's optimizers."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from tiny_training import LENGTH, NETWORK, VOCAB_SIZE
from transformers import LlamaForCausalLM

from llmrecipe import Llama, Training
from llmrecipe.engines.models.architecture import architecture_of
from llmrecipe.recipe.optimizer import AdamW


def factors(steps: int) -> list[float]:
    """Three steps up, the rest along half a cosine from the peak to a tenth of it."""
    down = steps - 3
    return [1 / 3, 2 / 3, 1.0, *(0.1 + 0.9 * (1 + np.cos(np.pi * i / down)) / 2 for i in range(1, down + 1))]


def plain_losses(
    tokens: Path,
    training: Training,
    network: Llama = NETWORK,
    decays: Callable[[str], bool] = lambda name: "norm" not in name,
    begin: int | None = None,
) -> list[float]:
    """The loss of every step.

    Args:
        tokens: the tokens artifact.
        training: gives the seed, the optimizer, the batch and the number of steps; the schedule is `factors`.
        network: the shape.
        decays: whether weight decay applies to a weight, by transformers' name.
        begin: a token that each document begins with, which is then given to the network by itself.
    """
    optimizer, batch_size = training.optimizer, training.global_batch_size
    torch.manual_seed(training.seed)
    model = LlamaForCausalLM(architecture_of(network).transformers_config(network, VOCAB_SIZE, begin or 0))
    # Else transformers would not train the end-of-text token's embedding, which is also the padding's.
    model.model.embed_tokens.padding_idx = None
    groups = [
        {"params": [weight], "weight_decay": optimizer.weight_decay if decays(name) else 0.0}
        for name, weight in model.named_parameters()
    ]
    if isinstance(optimizer, AdamW):
        stepper = torch.optim.AdamW(groups, lr=1.0, betas=(optimizer.beta1, optimizer.beta2), eps=optimizer.eps)
    else:
        stepper = torch.optim.SGD(groups, lr=1.0, momentum=optimizer.momentum, nesterov=optimizer.nesterov)
    row = np.fromfile(tokens / "train" / "00000.ds", "<u2").astype(np.int64)
    order = np.random.default_rng([training.seed, 0]).permutation((len(row) - 1) // LENGTH)
    losses = []
    for step, factor in enumerate(factors(training.duration.count)):
        chosen = order[step * batch_size :][:batch_size]
        batch = torch.stack([torch.from_numpy(row[i * LENGTH : (i + 1) * LENGTH + 1]) for i in chosen])
        inputs = batch[:, :-1]
        pieces = [inputs] if begin is None else [piece for row in inputs for piece in documents(row, begin)]
        logits = torch.cat([model(input_ids=piece).logits.flatten(0, 1) for piece in pieces])
        loss = torch.nn.functional.cross_entropy(logits, batch[:, 1:].flatten())
        stepper.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), training.clip_grad_norm)
        for group in stepper.param_groups:
            group["lr"] = optimizer.learning_rate * factor
        stepper.step()
        losses.append(loss.item())
    return losses


def documents(row: torch.Tensor, begin: int) -> list[torch.Tensor]:
    """A sequence cut before each of these tokens, `[1, length]` each."""
    cuts = [place for place in range(1, len(row)) if row[place] == begin]
    return [piece[None] for piece in row.tensor_split(cuts)]
