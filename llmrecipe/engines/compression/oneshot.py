"""A run of llmcompressor over a model, kept quiet: what calibrates it, where it computes, and what it says."""

import importlib
import logging
import os
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch
from compressed_tensors.utils import patch_attr
from torch.utils.data import DataLoader
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from llmrecipe.errors import StageError
from llmrecipe.foreign import foreign

if TYPE_CHECKING:
    from llmrecipe.engines.compression.fallbacks import Fallbacks

_MOST_SEQUENCES, _MOST_TOKENS = 8, 2048
"""In a batch that calibrates: the activations of many long ones need more memory than the weights."""


def compress(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    recipe: list[Any],
    calibration: torch.Tensor,
    device: torch.device,
    *,
    aim: str,
    propagate_error: bool = True,
) -> "Fallbacks":
    """Change `model` in place, as llmcompressor's modifiers say; it was loaded from a directory and is on the CPU.

    On a GPU, one layer of the network after the other is moved there and back.

    Args:
        model: any that transformers loads.
        tokenizer: its tokenizer.
        recipe: the modifiers, in order.
        calibration: token ids `int64[samples, sequence_length]`; no rows for modifiers that need none.
        device: where it is computed.
        aim: what is to be done, for the message: "quantize this model as FP8()".
        propagate_error: whether a block reads what the changed blocks before it give it, or what they gave before.

    Returns:
        What it did instead of what was asked, and whatever else it warned of.

    Raises:
        StageError: llmcompressor refuses the model.
    """
    counted = ours("fallbacks").counted
    from llmcompressor import oneshot

    rows = [{"input_ids": row, "attention_mask": torch.ones_like(row)} for row in calibration]
    at_once = batch_size(calibration)
    dataset: DataLoader[Any] | None = DataLoader(rows, batch_size=at_once) if rows else None  # type: ignore[arg-type]
    try:
        with patch_attr(torch.accelerator, "is_available", lambda: device.type != "cpu"), counted() as found:
            oneshot(model=model, tokenizer=tokenizer, recipe=recipe, dataset=dataset, propagate_error=propagate_error)
    except (ValueError, RuntimeError) as error:
        raise StageError(f"llmcompressor can't {aim}: {error}") from error
    fallbacks: Fallbacks = found
    return fallbacks


def batch_size(calibration: torch.Tensor) -> int:
    """How many of these sequences, which are equally long, are read at once: one at a time leaves a GPU idle."""
    return max(1, min(_MOST_SEQUENCES, _MOST_TOKENS // max(1, calibration.shape[1])))


def show_log(level: str) -> None:
    """Send llmcompressor's messages to standard error; its report on every layer only at `debug`."""
    # First: it sets up its log while it is imported.
    is_for_users = ours("fallbacks").is_for_users
    from loguru import logger

    # Tracing warns about torch's own change of a name.
    logging.getLogger("torch.fx._symbolic_trace").setLevel(logging.ERROR)
    logger.remove()
    if level == "debug":
        logger.add(_print, level="DEBUG", format="{message}")
    else:
        least = "ERROR" if level == "error" else "WARNING"
        logger.add(_print, level=least, format="{message}", filter=is_for_users)


def ours(name: str) -> ModuleType:
    """A module of ours that imports llmcompressor, which would say meanwhile that it found no accelerator."""
    os.environ.setdefault("LLM_COMPRESSOR_LOG_LEVEL", "ERROR")
    return importlib.import_module(f"llmrecipe.engines.compression.{name}")


def output_layers(model: PreTrainedModel) -> dict[str, torch.nn.Linear]:
    """The linear layers by name that decide: over tokens, or over what a task is to tell apart.

    Of a model that classifies, these are all above its body, pooler included: what they read is one state a text, for
    which formats that scale the activations of each token would have one scale for all texts of a batch.
    """
    output = model.get_output_embeddings()
    if output is not None:
        return {name: module for name, module in _linears(model).items() if module is output}
    body = {id(module) for name, module in _linears(model.base_model).items() if not name.startswith("pooler.")}
    return {name: module for name, module in _linears(model).items() if id(module) not in body}


def linear_layers(model: PreTrainedModel) -> dict[str, torch.nn.Linear]:
    """Its linear layers by name, all but the output layers."""
    return {name: module for name, module in _linears(model).items() if name not in output_layers(model)}


def _linears(model: torch.nn.Module) -> dict[str, torch.nn.Linear]:
    return {name: module for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}


def layers_of(model: PreTrainedModel) -> list[torch.nn.Module]:
    """Its layers of attention and feed-forward, in order."""
    lists = (module for module in model.base_model.modules() if isinstance(module, torch.nn.ModuleList))
    return list(next(lists))


def linears_in(layer: torch.nn.Module) -> list[torch.nn.Linear]:
    """Linear layers of one of them."""
    return [module for module in layer.modules() if isinstance(module, torch.nn.Linear)]


def _print(message: str) -> None:
    print(foreign(message), end="", file=sys.stderr, flush=True)
