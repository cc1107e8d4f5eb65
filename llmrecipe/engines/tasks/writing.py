"""What a decoder writes behind prompts."""

import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from transformers import GenerationConfig, LogitsProcessorList, PreTrainedModel

from llmrecipe.engines.models.drawing import Draw
from llmrecipe.engines.models.grouped import grouped
from llmrecipe.errors import StageError

log = logging.getLogger(__name__)

_TOKENS_AT_ONCE, _MOST_AT_ONCE = 1 << 13, 32

Prompt = tuple[list[int], list[int]]
"""Tokens, and the seed of what is drawn for the answer: any numbers."""


@torch.inference_mode()
def written(
    model: PreTrainedModel,
    prompts: Sequence[Prompt],
    *,
    end: int,
    fill: int,
    max_new_tokens: int,
    temperature: float | None,
    told: Callable[[Any], Any] = lambda batches: batches,
) -> list[list[int]]:
    """The tokens of an answer to each prompt, without the token that ends it.

    Args:
        model: a decoder.
        prompts: of one that is too long for the model's positions, the beginning is left out.
        end: the token that ends an answer.
        fill: a token for the places before shorter prompts.
        max_new_tokens: most tokens of an answer.
        temperature: what logits are divided by, for tokens that are drawn; None takes the likeliest each time.
        told: told of the batches.

    Raises:
        StageError: the model has no place for so many new tokens.
    """
    positions = int(model.config.max_position_embeddings)
    room = positions - max_new_tokens
    if room < 1:
        raise StageError(
            f"max_new_tokens = {max_new_tokens}, and the model reads at most {positions} tokens, prompt included; use "
            f"at most {positions // 2}"
        )
    cut = sum(len(tokens) > room for tokens, _ in prompts)
    if cut:
        log.warning(
            "of %s of %s prompts the beginning is left out: beside max_new_tokens = %d the model reads %d tokens",
            f"{cut:,}",
            f"{len(prompts):,}",
            max_new_tokens,
            room,
        )
    generator: Any = model
    published = generator.generation_config
    # What a model is published with, such as a penalty for repetitions, would go for all that a call leaves open.
    generator.generation_config = GenerationConfig(
        max_new_tokens=max_new_tokens, do_sample=False, eos_token_id=end, pad_token_id=fill
    )
    answers: list[list[int]] = [[] for _ in prompts]
    try:
        for chosen in told(_batches([len(tokens[-room:]) for tokens, _ in prompts], max_new_tokens)):
            rows = [prompts[index][0][-room:] for index in chosen]
            longest = max(map(len, rows))
            ids = torch.tensor([[fill] * (longest - len(row)) + row for row in rows], device=model.device)
            mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows], device=model.device)
            options: dict[str, Any] = {}
            if temperature is not None:
                seeds = [np.random.default_rng(prompts[index][1]) for index in chosen]
                options["logits_processor"] = LogitsProcessorList([Draw(seeds, temperature)])
            with grouped(model):
                made = generator.generate(input_ids=ids, attention_mask=mask, **options)[:, longest:].tolist()
            for index, row in zip(chosen, made, strict=True):
                answers[index] = row[: row.index(end)] if end in row else row
    finally:
        generator.generation_config = published
    return answers


def _batches(lengths: Sequence[int], more: int) -> list[list[int]]:
    """Places of prompts of like length, so many that they and their answers fit into memory together."""
    found: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lengths.__getitem__):
        count = len(found[-1]) + 1 if found else 1
        if found and count <= _MOST_AT_ONCE and count * (lengths[index] + more) <= _TOKENS_AT_ONCE:
            found[-1].append(index)
        else:
            found.append([index])
    return found
