"""One-shot quantization with llmcompressor, saved in the compressed-tensors format."""

import logging
import os
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader
from transformers import PreTrainedModel, PreTrainedTokenizerBase

# While it is imported, llmcompressor says several times that it found no accelerator.
os.environ.setdefault("LLM_COMPRESSOR_LOG_LEVEL", "ERROR")

from compressed_tensors.utils import patch_attr
from llmcompressor import oneshot
from llmcompressor.modifiers import Modifier
from llmcompressor.modifiers.gptq import GPTQModifier
from llmcompressor.modifiers.quantization import QuantizationModifier
from llmcompressor.modifiers.transform.smoothquant import SmoothQuantModifier
from loguru import logger

from llmrecipe.errors import StageError
from llmrecipe.recipe.compression import FP8, GPTQ, W4A16, W8A8, W8A16, Rounding, Scheme

# The output layer decides between all tokens, and rounding it costs the most quality for the size it saves.
IGNORE = ["lm_head", "cls.predictions.decoder", "decoder"]

# What llmcompressor warns of at every start: a CPU is what was asked for, and nothing is tokenized here.
_EXPECTED = ("No accelerator available", "Disabling tokenizer parallelism")


def needs_calibration(scheme: Scheme) -> bool:
    """Whether the scheme looks at activations before it rounds."""
    return any(modifier.requires_calibration_data for modifier in modifiers(scheme))


def modifiers(scheme: Scheme) -> list[Modifier]:
    """The scheme in llmcompressor's words, in the order in which they are applied."""
    match scheme:
        case W4A16(group_size=group_size, rounding=rounding):
            weights = {"num_bits": 4, "strategy": "group", "group_size": group_size}
            return [_rounding(rounding, config_groups=_weights_only(weights))]
        case W8A16(rounding=rounding):
            # Not the preset of this name, which has groups of 128.
            weights = {"num_bits": 8, "strategy": "channel"}
            return [_rounding(rounding, config_groups=_weights_only(weights))]
        case W8A8(smoothing_strength=strength, rounding=rounding):
            return [SmoothQuantModifier(smoothing_strength=strength), _rounding(rounding, scheme="W8A8")]
        case FP8():
            return [QuantizationModifier(scheme="FP8_DYNAMIC", ignore=IGNORE)]


def draw(available: int, samples: int, seed: int) -> list[int]:
    """`samples` of `available` sequences, or all if there are no more, each at most once, as `seed` decides."""
    return np.random.default_rng(seed).choice(available, size=min(samples, available), replace=False).tolist()


def quantize(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    scheme: Scheme,
    calibration: torch.Tensor,
    device: torch.device,
) -> None:
    """Round the linear layers of `model` in place; it was loaded from a directory and is on the CPU.

    On a GPU, one decoder layer after the other is moved there and back. The model keeps its number format: what is
    not rounded (embeddings, norms, output layer, scales) is saved as it came.

    Args:
        calibration: token ids `int64[samples, sequence_length]`; no rows for a scheme that needs none.

    Raises:
        StageError: llmcompressor refuses the model.
    """
    # Equal lengths make a batch safe; one sequence at a time, as llmcompressor does by default, leaves a GPU idle.
    rows = [{"input_ids": row, "attention_mask": torch.ones_like(row)} for row in calibration]
    dataset = DataLoader(rows, batch_size=8) if rows else None
    try:
        with patch_attr(torch.accelerator, "is_available", lambda: device.type != "cpu"):
            oneshot(model=model, tokenizer=tokenizer, recipe=modifiers(scheme), dataset=dataset)
    except (ValueError, RuntimeError) as error:
        raise StageError(f"llmcompressor can't quantize this model as {scheme}: {error}") from error


def save_compressed(model: PreTrainedModel, directory: Path) -> None:
    """Write a quantized model to `directory` in the compressed-tensors format, without its tokenizer."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Attempting to save a model with offloaded modules")
        model.save_pretrained(directory, save_compressed=True, max_shard_size="5GB")
    # llmcompressor's own record of what it did: params.yaml says it already, and this one names Python objects.
    (directory / "recipe.yaml").unlink()


def show_log(level: str) -> None:
    """Send llmcompressor's messages to standard error; its report on every layer only at `debug`."""
    # Tracing warns about torch's own change of a name.
    logging.getLogger("torch.fx._symbolic_trace").setLevel(logging.ERROR)
    logger.remove()
    if level == "debug":
        logger.add(sys.stderr, level="DEBUG", format="{message}")
    else:
        least = "ERROR" if level == "error" else "WARNING"
        logger.add(sys.stderr, level=least, format="{message}", filter=_is_for_users)


def _is_for_users(record: dict[str, Any]) -> bool:
    # METRIC, a level of llmcompressor's own above WARNING, carries times and errors of each layer.
    return record["level"].name != "METRIC" and not record["message"].startswith(_EXPECTED)


def _weights_only(weights: dict[str, Any]) -> dict[str, Any]:
    return {"group_0": {"targets": ["Linear"], "weights": {"type": "int", "symmetric": True, **weights}}}


def _rounding(rounding: Rounding, **what: Any) -> Modifier:
    if isinstance(rounding, GPTQ):
        return GPTQModifier(dampening_frac=rounding.dampening_frac, ignore=IGNORE, **what)
    return QuantizationModifier(ignore=IGNORE, **what)
