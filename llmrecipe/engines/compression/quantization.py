"""One-shot quantization with llmcompressor, saved in the compressed-tensors format."""

import importlib
import json
import logging
import os
import sys
import warnings
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import DataLoader
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from llmrecipe import artifacts, cards
from llmrecipe.cards import ModelCard
from llmrecipe.engines.compression import reloading
from llmrecipe.engines.compression.calibration import CalibrationText
from llmrecipe.engines.compression.report import Report, bits_per_weight
from llmrecipe.engines.models import folders
from llmrecipe.engines.models.stored import on_disk, put_on_disk
from llmrecipe.engines.models.vocabulary import check_embeddings
from llmrecipe.engines.tokenizing.folders import copy_files
from llmrecipe.errors import StageError
from llmrecipe.foreign import foreign
from llmrecipe.recipe.evolve import evolve
from llmrecipe.sections import QuantizeSection

if TYPE_CHECKING:
    from llmrecipe.engines.compression.fallbacks import Fallbacks

log = logging.getLogger(__name__)

LOGITS_TOLERANCE = {"cpu": 0.0, "cuda": 1e-3}
"""Largest difference between the logits of the quantized model in memory and as saved, over the largest logit, by what
computes them.

Both compute with the same numbers in the same order, so rounding is the same in both, whatever the model's size and
weights; on a GPU, whose kernels are chosen anew, that is yet to be proved. A wrong scale or weight moves them by far
more.
"""

_MOST_SEQUENCES, _MOST_TOKENS = 8, 2048
"""In a batch that calibrates: the activations of many long ones need more memory than the weights."""


def quantize_and_verify(
    source: Path,
    directory: Path,
    card: ModelCard,
    section: QuantizeSection,
    text: CalibrationText,
    device: torch.device,
    scratch: Path,
) -> Report:
    """Write the model in `source`, quantized, to `directory`, and check that what was saved computes the same.

    Args:
        source: a model artifact.
        directory: becomes one.
        card: what the quantized model is.
        section: the number formats.
        text: what calibrates a scheme that needs it.
        device: where it is done.
        scratch: a folder for what is as large as the model meanwhile; empty again at the end.

    Raises:
        StageError: the model is quantized already, llmcompressor refuses it, the result computes numbers that aren't
            finite, or the saved model isn't the quantized one.
    """
    with _llmcompressor("offloading").offloaded(scratch):
        return _quantize_and_verify(source, directory, card, section, text, device, scratch)


def _quantize_and_verify(
    source: Path,
    directory: Path,
    card: ModelCard,
    section: QuantizeSection,
    text: CalibrationText,
    device: torch.device,
    scratch: Path,
) -> Report:
    """As `quantize_and_verify`, where memory is in files already."""
    model = folders.load_model(source)
    if hasattr(model.config, "quantization_config"):
        raise StageError(f"{source}: this model is quantized already; quantize the one that it was made from")
    check_embeddings(source, card, model)
    notes = card.notes
    if _is_bfloat16(section) and model.dtype != torch.bfloat16:
        notes = (*notes, f"all of it is bfloat16 in the place of {str(model.dtype).removeprefix('torch.')}")
        _to_bfloat16(model, scratch)
    names = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    probe = text.one()
    calibration = text.sequences() if needs_calibration(section, model) else probe[:0]
    if len(calibration) or section.rotate:
        # It writes into the weights, and what is written to doesn't stay a view of the file that it was read from.
        put_on_disk(model, scratch)
    on_text = f", calibrated on {len(calibration)} sequences" if len(calibration) else ""
    log.info("rounds the weights%s", on_text)
    fallbacks = quantize(model, folders.load_tokenizer(source), section, calibration, device)
    probe = probe.to(device)
    expected = folders.logits(model, probe)
    if not expected.isfinite().all():
        raise StageError(
            f"{source}: quantized, this model computes numbers that aren't finite; its weights are too large, most "
            "often by a learning rate that is too high"
        )
    expanded = sum(parameter.nbytes for name, parameter in model.named_parameters() if name in names)
    log.info("saves the model, and compares what a fresh process computes with it")
    save_compressed(model, directory)
    copy_files(source, directory)
    folders.copy_generation(source, directory)
    cards.write(directory, evolve(card, notes=(*notes, *fallbacks.notes)))
    artifacts.seal(directory, "model")
    found = reloading.logits_in_a_fresh_process(directory, probe, scratch)
    # llmcompressor leaves a model on the CPU, and its logits, that computes on a GPU.
    difference, accepted = folders.largest_difference(found, expected.cpu()), LOGITS_TOLERANCE[device.type]
    # Not `>`, which is false for NaN.
    if not difference <= accepted:
        raise StageError(
            f"{directory}: the saved model is not the quantized one: transformers computes logits that differ "
            f"by {difference:.3g} of the largest, {accepted:.3g} is accepted"
        )
    dense, quantized = folders.weights_bytes(source), folders.weights_bytes(directory)
    return Report(
        bits_per_linear_weight=bits_per_weight(directory, _linear_layers(model)),
        calibration_sequences=len(calibration),
        dense_bytes=dense,
        expanded_bytes=expanded,
        gptq_layers=fallbacks.layers,
        gptq_layers_rounded_to_nearest=fallbacks.rounded_to_nearest,
        quantized_bytes=quantized,
        ratio=dense / quantized,
    )


def needs_calibration(section: QuantizeSection, model: PreTrainedModel) -> bool:
    """Whether activations are looked at before weights are rounded."""
    return any(modifier.requires_calibration_data for modifier in _modifiers(section, model))


def quantize(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    section: QuantizeSection,
    calibration: torch.Tensor,
    device: torch.device,
) -> "Fallbacks":
    """Round the linear layers of `model` in place; it was loaded from a directory and is on the CPU.

    The output layer stays as it is: it decides between all tokens, and rounding it costs the most quality for the size
    it saves. On a GPU, one layer of the network after the other is moved there and back. What is not rounded
    (embeddings, norms, output layer, scales) keeps its number format.

    Args:
        model: any that transformers loads.
        tokenizer: its tokenizer.
        section: the number formats.
        calibration: token ids `int64[samples, sequence_length]`; no rows for a scheme that needs none.
        device: where it is computed.

    Returns:
        How many layers GPTQ rounded, for how many it failed, and what else llmcompressor warned of.

    Raises:
        StageError: llmcompressor refuses the model or would guess at it, or GPTQ failed for every layer.
    """
    recipe = _modifiers(section, model)
    _llmcompressor("fallbacks").refuse_guesses(recipe, model)
    from compressed_tensors.utils import patch_attr
    from llmcompressor import oneshot

    # Equal lengths make a batch safe; one sequence at a time, as llmcompressor does by default, leaves a GPU idle.
    at_once = max(1, min(_MOST_SEQUENCES, _MOST_TOKENS // max(1, calibration.shape[1])))
    rows = [{"input_ids": row, "attention_mask": torch.ones_like(row)} for row in calibration]
    dataset: DataLoader[Any] | None = DataLoader(rows, batch_size=at_once) if rows else None  # type: ignore[arg-type]
    try:
        with (
            patch_attr(torch.accelerator, "is_available", lambda: device.type != "cpu"),
            _llmcompressor("awq").mended(device),
            _llmcompressor("fallbacks").counted() as fallbacks,
        ):
            oneshot(model=model, tokenizer=tokenizer, recipe=recipe, dataset=dataset)
    except (ValueError, RuntimeError) as error:
        raise StageError(
            f"llmcompressor can't quantize this model as {section.scheme or section.kv_cache}: {error}"
        ) from error
    if fallbacks.rounded_to_nearest:
        told = (
            f"{fallbacks} ({section.scheme}); raise scheme.rounding.dampening_frac, for which 0.01 is usual, or "
            "calibrate on more text or another"
        )
        if fallbacks.rounded_to_nearest == fallbacks.layers:
            raise StageError(f"{told}; if it is to be rounded so, say rounding=scheme.RoundToNearest()")
        log.warning("%s", told)
    found: Fallbacks = fallbacks
    return found


def save_compressed(model: PreTrainedModel, directory: Path) -> None:
    """Write a quantized model to `directory` in the compressed-tensors format, without its tokenizer."""
    # What a model is published with is copied as it is; transformers would refuse to write some of it.
    model.generation_config = GenerationConfig.from_model_config(model.config)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Attempting to save a model with offloaded modules")
        model.save_pretrained(directory, save_compressed=True, max_shard_size="5GB")
    # llmcompressor copies what the publisher says, which may be a class without the output head.
    config = artifacts.read_json(directory / "config.json") | {"architectures": [type(model).__name__]}
    (directory / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    # llmcompressor's own record of what it did: its section says it already, and this one names Python objects.
    (directory / "recipe.yaml").unlink()


def show_log(level: str) -> None:
    """Send llmcompressor's messages to standard error; its report on every layer only at `debug`."""
    # First: it sets up its log while it is imported.
    _llmcompressor("modifiers")
    from loguru import logger

    # Tracing warns about torch's own change of a name.
    logging.getLogger("torch.fx._symbolic_trace").setLevel(logging.ERROR)
    logger.remove()
    if level == "debug":
        logger.add(_print, level="DEBUG", format="{message}")
    else:
        least = "ERROR" if level == "error" else "WARNING"
        logger.add(_print, level=least, format="{message}", filter=_llmcompressor("fallbacks").is_for_users)


def _print(message: str) -> None:
    print(foreign(message), end="", file=sys.stderr, flush=True)


def _modifiers(section: QuantizeSection, model: PreTrainedModel) -> list[Any]:
    """What is done to the model; its output layer, if it has one, stays as it is."""
    output = model.get_output_embeddings()
    ignore = [name for name, module in model.named_modules() if module is output]
    made: list[Any] = _llmcompressor("modifiers").modifiers(
        section, _linear_layers(model), ignore, model.config.hidden_size
    )
    return made


def _is_bfloat16(section: QuantizeSection) -> bool:
    schemes = (section.scheme, *(override.scheme for override in section.overrides))
    return any(scheme is not None and scheme.is_bfloat16 for scheme in schemes)


def _to_bfloat16(model: PreTrainedModel, folder: Path) -> None:
    """Convert the weights, and no buffers: those that transformers makes anew for a model it loads are float32."""
    for parameter in model.parameters():
        parameter.data = on_disk(parameter.data.to(torch.bfloat16), folder)


def _linear_layers(model: PreTrainedModel) -> dict[str, int]:
    """How many weights each linear layer but the output layer has, by its name."""
    output = model.get_output_embeddings()
    return {
        name: module.in_features * module.out_features
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and module is not output
    }


def _llmcompressor(name: str) -> ModuleType:
    """A module of ours that imports llmcompressor, which would say meanwhile that it found no accelerator."""
    os.environ.setdefault("LLM_COMPRESSOR_LOG_LEVEL", "ERROR")
    return importlib.import_module(f"llmrecipe.engines.compression.{name}")
