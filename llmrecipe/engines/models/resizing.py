"""Embeddings of one tokenizer to those of another."""

from collections.abc import Mapping, Sequence

import torch

from llmrecipe.engines.models.table import Weight, Weights, padded


def resized(
    weights: Mapping[str, torch.Tensor],
    table: Sequence[Weight],
    before: Mapping[str, int],
    after: Mapping[str, int],
    rows: int,
) -> Weights:
    """Weights whose rows by token are those of another tokenizer.

    A token that both know keeps its row; a new one gets the mean of all old rows, by which it is neither likelier nor
    rarer than the old ones are on average (Hewitt 2021, "Initializing New Word Embeddings for Pretrained Language
    Models").

    Args:
        weights: under nanotron's names.
        table: the network's.
        before: numbers of the old tokenizer's tokens.
        after: and of the new one's, from 0 on.
        rows: of what is returned, padding included.
    """
    made = dict(weights)
    numbers = torch.tensor(sorted(before.values()))
    shared = [(number, before[token]) for token, number in sorted(after.items()) if token in before]
    ours, theirs = (torch.tensor(column) for column in zip(*shared, strict=True)) if shared else (None, None)
    for weight in table:
        if weight.is_of_vocabulary:
            old = weights[weight.name]
            mean = old[numbers].float().mean(0, keepdim=True).to(old.dtype)
            new = mean.repeat(len(after), *[1] * (old.dim() - 1))
            if ours is not None:
                new[ours] = old[theirs]
            made[weight.name] = padded(new, rows)
    return made
