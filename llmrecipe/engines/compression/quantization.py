"""One-shot quantization with llmcompressor, saved in the compressed-tensors format."""

import json
import logging
import warnings
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import torch
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from llmrecipe import artifacts
from llmrecipe.cards import ModelCard
from llmrecipe.engines.compression.calibration import CalibrationText
from llmrecipe.engines.compression.oneshot import compress, ours
from llmrecipe.engines.compression.saving import save_and_verify
from llmrecipe.engines.compression.zeros import kept_by_gptq, refuse_lost
from llmrecipe.engines.models import folders
from llmrecipe.engines.models.stored import put_on_disk
from llmrecipe.engines.models.vocabulary import check_embeddings
from llmrecipe.errors import StageError
from llmrecipe.recipe.evolve import evolve
from llmrecipe.sections import QuantizeSection

if TYPE_CHECKING:
    from llmrecipe.engines.compression.fallbacks import Fallbacks

log = logging.getLogger(__name__)


@attrs.frozen(kw_only=True)
class Report:
    """What quantizing did to the size of a model."""

    bits_per_weight: float
    """Bits of the quantized weights files over the number of the dense model's weights."""

    calibration_sequences: int
    """Sequences that calibrated the scheme."""

    dense_bytes: int
    """Size of the weights files of the model before."""

    gptq_layers: int
    """Layers that GPTQ was to round; 0 for another way of rounding."""

    gptq_layers_rounded_to_nearest: int
    """Those of them for which it failed."""

    quantized_bytes: int
    """Size of the weights files of the quantized model."""

    ratio: float
    """`dense_bytes` over `quantized_bytes`."""


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

    If `card` says that it is sparse, its zeros are kept.

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
            finite, the saved model isn't the quantized one, or a zero of a sparse model is lost.
    """
    with ours("offloading").offloaded(scratch):
        calibrated_by, fallbacks = _quantize_and_verify(source, directory, card, section, text, device, scratch)
    dense, quantized = folders.weights_bytes(source), folders.weights_bytes(directory)
    return Report(
        bits_per_weight=8 * quantized / folders.num_weights(source),
        calibration_sequences=calibrated_by,
        dense_bytes=dense,
        gptq_layers=fallbacks.layers,
        gptq_layers_rounded_to_nearest=fallbacks.rounded_to_nearest,
        quantized_bytes=quantized,
        ratio=dense / quantized,
    )


def _quantize_and_verify(
    source: Path,
    directory: Path,
    card: ModelCard,
    section: QuantizeSection,
    text: CalibrationText,
    device: torch.device,
    scratch: Path,
) -> tuple[int, "Fallbacks"]:
    """As `quantize_and_verify`, where memory is in files already; the number of sequences that calibrated, and where
    GPTQ failed."""
    model = folders.load_model(source)
    if hasattr(model.config, "quantization_config"):
        raise StageError(f"{source}: this model is quantized already; quantize the one that it was made from")
    check_embeddings(source, card, model)
    probe = text.one()
    calibration = text.sequences() if needs_calibration(section, model) else probe[:0]
    if len(calibration):
        # It writes into the weights, and what is written to doesn't stay a view of the file that it was read from.
        put_on_disk(model, scratch)
        log.info("rounds the weights, calibrated on %d sequences", len(calibration))
    else:
        log.info("rounds the weights")
    with kept_by_gptq() if card.sparse else nullcontext():
        fallbacks = quantize(model, folders.load_tokenizer(source), section, calibration, device)
    noted = evolve(card, notes=(*card.notes, *fallbacks.notes))
    save_and_verify(model, save_compressed, source, directory, noted, probe.to(device), scratch)
    if card.sparse:
        refuse_lost(source, directory)
    return len(calibration), fallbacks


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
    it saves. On a GPU, one layer of the network after the other is moved there and back. The model keeps its number
    format: what is not rounded (embeddings, norms, output layer, scales) is saved as it came.

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
    ours("fallbacks").refuse_guesses(recipe, model)
    aim = f"quantize this model as {section.scheme}"
    fallbacks = compress(model, tokenizer, recipe, calibration, device, aim=aim)
    if fallbacks.rounded_to_nearest:
        told = (
            f"{fallbacks} ({section.scheme}); raise scheme.rounding.dampening_frac, for which 0.01 is usual, or "
            "calibrate on more text or another"
        )
        if fallbacks.rounded_to_nearest == fallbacks.layers:
            raise StageError(f"{told}; if it is to be rounded so, say rounding=scheme.RoundToNearest()")
        log.warning("%s", told)
    return fallbacks


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


def _modifiers(section: QuantizeSection, model: PreTrainedModel) -> list[Any]:
    """What is done to the model; its output layer, if it has one, stays as it is."""
    layers = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
    output = model.get_output_embeddings()
    ignore = [name for name, module in model.named_modules() if module is output]
    made: list[Any] = ours("modifiers").modifiers(section, layers, ignore)
    return made
