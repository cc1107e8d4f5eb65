"""The training of `tiny_training` written down by hand, with transformers' networks and torch's optimizers."""

from collections.abc import Callable
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from tiny_training import LENGTH, MASKING, NETWORK, VOCAB_SIZE
from transformers import PreTrainedModel

from llmrecipe import MaskedLM, Training
from llmrecipe.engines.models.architecture import architecture_of
from llmrecipe.engines.tokens.masking import MaskedVocabulary, mask
from llmrecipe.recipe.networks.network import Network
from llmrecipe.recipe.optimizer import AdamW, Muon

VOCABULARY = MaskedVocabulary(
    mask_id=MASKING.mask_token_id,
    is_special=np.isin(np.arange(VOCAB_SIZE), MASKING.special_ids),
    starts_word=~np.isin(np.arange(VOCAB_SIZE), MASKING.continuing_ids),
)


def factors(steps: int) -> list[float]:
    """Three steps up, the rest along half a cosine from the peak to a tenth of it."""
    down = steps - 3
    return [1 / 3, 2 / 3, 1.0, *(0.1 + 0.9 * (1 + np.cos(np.pi * i / down)) / 2 for i in range(1, down + 1))]


def plain_losses(
    tokens: Path,
    training: Training,
    network: Network = NETWORK,
    decays: Callable[[str], bool] = lambda name: "norm" not in name.lower() and not name.endswith("bias"),
    begin: int | None = None,
    objective: MaskedLM | None = None,
    model: PreTrainedModel | None = None,
) -> list[float]:
    """The loss of every step.

    Args:
        tokens: the tokens artifact.
        training: gives the seed, the optimizer, the batch and the number of steps; the schedule is `factors`.
        network: the shape.
        decays: whether weight decay applies to a weight, by transformers' name.
        begin: a token that each document begins with, which is then given to the network by itself.
        objective: what an encoder predicts; None predicts every next token.
        model: what is trained; None draws the first weights.
    """
    optimizer, batch_size = training.optimizer, training.global_batch_size
    if model is None:
        torch.manual_seed(training.seed)
        architecture = architecture_of(network)
        model = architecture.transformers_class(architecture.transformers_config(network, VOCAB_SIZE, begin or 0))
    # Not in training mode, in which an encoder would drop.
    model.eval()
    # Else transformers would not train the end-of-text token's embedding, which is also the padding's.
    model.get_input_embeddings().padding_idx = None
    groups = [
        {"params": [weight], "weight_decay": optimizer.weight_decay if decays(name) else 0.0}
        for name, weight in model.named_parameters()
    ]
    if isinstance(optimizer, Muon):
        stepper = _Muon(model, groups, optimizer)
    elif isinstance(optimizer, AdamW):
        stepper = torch.optim.AdamW(groups, lr=1.0, betas=(optimizer.beta1, optimizer.beta2), eps=optimizer.eps)
    else:
        stepper = torch.optim.SGD(groups, lr=1.0, momentum=optimizer.momentum, nesterov=optimizer.nesterov)
    row = np.fromfile(tokens / "train" / "00000.ds", "<u2").astype(np.int64)
    order = np.random.default_rng([training.seed, 0]).permutation((len(row) - 1) // LENGTH)
    losses = []
    for step, factor in enumerate(factors(training.duration.count)):
        chosen = order[step * batch_size :][:batch_size].tolist()
        loss = (
            masked_loss(model, row, chosen, objective, training.seed)
            if objective
            else causal_loss(model, row, chosen, begin)
        )
        stepper.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), training.clip_grad_norm)
        for group in stepper.param_groups:
            group["lr"] = optimizer.learning_rate * factor
        stepper.step()
        losses.append(loss.item())
    return losses


class _Muon:
    """torch's Muon for the hidden matrices, and its AdamW for the rest."""

    def __init__(self, model: PreTrainedModel, groups: list[dict], optimizer: Muon) -> None:
        names = [name for name, _ in model.named_parameters()]
        is_hidden = [
            group["params"][0].dim() == 2 and "embed" not in name and not name.startswith("lm_head")
            for name, group in zip(names, groups, strict=True)
        ]
        hidden, rest = (
            [g for g, is_one in zip(groups, is_hidden, strict=True) if is_one is side] for side in (True, False)
        )
        self.muon = torch.optim.Muon(hidden, lr=1.0, momentum=optimizer.momentum, adjust_lr_fn="match_rms_adamw")
        self.adamw = torch.optim.AdamW(rest, lr=1.0, betas=(optimizer.beta1, optimizer.beta2), eps=optimizer.eps)
        self.param_groups = [*self.muon.param_groups, *self.adamw.param_groups]

    def zero_grad(self) -> None:
        self.muon.zero_grad()
        self.adamw.zero_grad()

    def step(self) -> None:
        # It always orthogonalises in bfloat16.
        with mock.patch.object(torch.Tensor, "bfloat16", torch.Tensor.clone):
            self.muon.step()
        self.adamw.step()


def causal_loss(model: PreTrainedModel, row: np.ndarray, windows: list[int], begin: int | None) -> torch.Tensor:
    """Of every next token of these windows."""
    batch = torch.stack([torch.from_numpy(row[i * LENGTH : (i + 1) * LENGTH + 1]) for i in windows])
    inputs = batch[:, :-1]
    pieces = [inputs] if begin is None else [piece for row in inputs for piece in documents(row, begin)]
    logits = torch.cat([model(input_ids=piece).logits.flatten(0, 1) for piece in pieces])
    return torch.nn.functional.cross_entropy(logits, batch[:, 1:].flatten())


def masked_loss(
    model: PreTrainedModel, row: np.ndarray, windows: list[int], objective: MaskedLM, seed: int
) -> torch.Tensor:
    """Of the masked tokens of these windows of the first epoch."""
    input_ids, labels = [], []
    for window in windows:
        text = row[window * LENGTH :][:LENGTH]
        sequence = mask(text, objective, VOCABULARY, seed=seed, epoch=0, window=window)
        input_ids.append(torch.from_numpy(sequence.input_ids))
        label = torch.full((LENGTH,), -100)
        label[sequence.positions] = torch.from_numpy(text[sequence.positions])
        labels.append(label)
    return model(input_ids=torch.stack(input_ids), labels=torch.stack(labels)).loss


def documents(row: torch.Tensor, begin: int) -> list[torch.Tensor]:
    """A sequence cut before each of these tokens, `[1, length]` each."""
    cuts = [place for place in range(1, len(row)) if row[place] == begin]
    return [piece[None] for piece in row.tensor_split(cuts)]
