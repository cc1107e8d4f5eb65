"""One-shot quantization with llmcompressor, saved in the compressed-tensors format."""

import json
import logging
import warnings
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from llmrecipe import artifacts, cards
from llmrecipe.cards import HessiansCard, ModelCard
from llmrecipe.engines.compression.calibration import CalibrationText
from llmrecipe.engines.compression.oneshot import compress, linear_layers, ours, output_layers
from llmrecipe.engines.compression.report import Report, bits_per_weight
from llmrecipe.engines.compression.saving import save_and_verify
from llmrecipe.engines.compression.zeros import kept_by_gptq, refuse_lost
from llmrecipe.engines.models import folders
from llmrecipe.engines.models.stored import on_disk, put_on_disk
from llmrecipe.engines.models.vocabulary import check_embeddings
from llmrecipe.errors import StageError
from llmrecipe.launch.process import freed_memory_used_again
from llmrecipe.recipe.evolve import evolve
from llmrecipe.recipe.kinds import Scheme
from llmrecipe.recipe.rounding import AWQ
from llmrecipe.recipe.scheme_checks import rounding_of
from llmrecipe.sections import QuantizeSection

if TYPE_CHECKING:
    from llmrecipe.engines.compression.fallbacks import Fallbacks

log = logging.getLogger(__name__)


def quantize_and_verify(
    source: Path,
    directory: Path,
    card: ModelCard,
    section: QuantizeSection,
    text: CalibrationText,
    device: torch.device,
    scratch: Path,
    gathered: Path | None = None,
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
        gathered: a hessians artifact of the model, which is taken in the place of the text.

    Raises:
        StageError: the model is quantized already, llmcompressor refuses it, the result computes numbers that aren't
            finite, the saved model isn't the quantized one, or a zero of a sparse model is lost.
    """
    with ours("offloading").offloaded(scratch):
        return _quantize_and_verify(source, directory, card, section, text, device, scratch, gathered)


def _quantize_and_verify(
    source: Path,
    directory: Path,
    card: ModelCard,
    section: QuantizeSection,
    text: CalibrationText,
    device: torch.device,
    scratch: Path,
    gathered: Path | None = None,
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
    is_calibrated = needs_calibration(section, model)
    calibration = text.sequences() if is_calibrated and gathered is None else probe[:0]
    samples = text.samples if is_calibrated else 0
    if is_calibrated or section.rotate:
        # It writes into the weights, and what is written to doesn't stay a view of the file that it was read from.
        put_on_disk(model, scratch)
    on_text = f", calibrated on {samples} sequences" if samples else ""
    log.info("rounds the weights%s", on_text)
    with kept_by_gptq() if card.sparse else nullcontext():
        fallbacks = quantize(model, folders.load_tokenizer(source), section, calibration, device, gathered)
    expanded = sum(parameter.nbytes for name, parameter in model.named_parameters() if name in names)
    sizes = {name: layer.in_features * layer.out_features for name, layer in linear_layers(model).items()}
    network = card.network if _shares_output(model) else card.network.untied
    noted = evolve(card, network=network, notes=(*notes, *fallbacks.notes))
    save_and_verify(
        model,
        save_compressed,
        directory,
        noted,
        tokenizer=source,
        generation=source,
        probe=probe.to(device),
        scratch=scratch,
    )
    if card.sparse:
        refuse_lost(source, directory)
    dense, quantized = folders.weights_bytes(source), folders.weights_bytes(directory)
    return Report(
        bits_per_linear_weight=bits_per_weight(directory, sizes),
        calibration_sequences=samples,
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
    gathered: Path | None = None,
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
        gathered: a hessians artifact of the model, where that calibrates.

    Returns:
        How many layers GPTQ rounded, for how many it failed, and what else llmcompressor warned of.

    Raises:
        StageError: llmcompressor refuses the model or would guess at it, or GPTQ failed for every layer.
    """
    recipe = _modifiers(section, model)
    if gathered is not None:
        recipe = list(ours("hessians").given(recipe, gathered, cards.read(gathered, HessiansCard)))
    ours("fallbacks").refuse_guesses(recipe, model)
    aim = f"quantize this model as {section.scheme or section.kv_cache}"
    # It hands on by itself what a rounded block gives, beside what that gave before.
    learns = section.scheme is not None and rounding_of(section.scheme).learns
    is_awq = any(isinstance(rounding_of(scheme), AWQ) for scheme in _schemes(section))
    # AWQ takes whole blocks and their copies, and what it frees would lie between what it keeps.
    reused = nullcontext() if is_awq else freed_memory_used_again()
    with ours("awq").mended(device), ours("scales").rounded(), reused:
        fallbacks = compress(model, tokenizer, recipe, calibration, device, aim=aim, propagate_error=not learns)
    if learns:
        # Its scales are its own, not an observer's.
        ours("scales").make_narrow(model)
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
    with warnings.catch_warnings(), ours("scales").narrow():
        warnings.filterwarnings("ignore", "Attempting to save a model with offloaded modules")
        model.save_pretrained(directory, save_compressed=True, max_shard_size="5GB")
    # llmcompressor copies what the publisher says, which may be a class without the output head.
    config = artifacts.read_json(directory / "config.json") | {"architectures": [type(model).__name__]}
    (directory / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    # llmcompressor's own record of what it did: its section says it already, and this one names Python objects.
    (directory / "recipe.yaml").unlink()


def _modifiers(section: QuantizeSection, model: PreTrainedModel) -> list[Any]:
    """What is done to the model; its output layers stay as they are."""
    ignore = list(output_layers(model))
    made: list[Any] = ours("modifiers").modifiers(section, linear_layers(model), ignore, model.config.hidden_size)
    return made


def _shares_output(model: PreTrainedModel) -> bool:
    """Whether the output layer has the weights of the embedding: llmcompressor stores equal ones once."""
    output: Any = model.get_output_embeddings()
    embedding: Any = model.get_input_embeddings()
    return output is None or torch.equal(output.weight, embedding.weight)


def _is_bfloat16(section: QuantizeSection) -> bool:
    return any(scheme.is_bfloat16 for scheme in _schemes(section))


def _schemes(section: QuantizeSection) -> list[Scheme]:
    every = (section.scheme, *(override.scheme for override in section.overrides))
    return [scheme for scheme in every if scheme is not None]


def _to_bfloat16(model: PreTrainedModel, folder: Path) -> None:
    """Convert the weights, and no buffers: those that transformers makes anew for a model it loads are float32."""
    for parameter in model.parameters():
        parameter.data = on_disk(parameter.data.to(torch.bfloat16), folder)
