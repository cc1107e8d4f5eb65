"""A transformers model to a smaller one."""

import logging
from typing import Any

from llmrecipe import artifacts
from llmrecipe.engines.compression import quantization
from llmrecipe.engines.device import set_up
from llmrecipe.engines.models import folders
from llmrecipe.engines.tokens.mixture import TokenMixture
from llmrecipe.errors import RecipeError, StageError, Violation
from llmrecipe.recipe import checks
from llmrecipe.sections import QuantizeSection
from llmrecipe.stages.runner import StageContext

LOGITS_TOLERANCE = 1e-3
"""Largest difference between the logits of the quantized model in memory and as saved, over the largest logit.

Both compute with the same numbers, so that they are usually equal; a wrong scale or weight moves them by far more.
"""

log = logging.getLogger(__name__)


def run(context: StageContext) -> None:
    """Quantize `model`, calibrated on the training split of `tokens`, into `model/`.

    `metrics.json`: the `calibration_sequences` that were read, `dense_bytes` and `quantized_bytes` of the weights
    files, their `ratio`, and `bits_per_weight`: bits of the quantized files over the number of the dense model's
    weights.

    Calibration reads its sequences whole, also where the training restarted at documents: it looks for the range of the
    activations, not for a loss.
    """
    section: QuantizeSection = context.section
    source, directory = context.inputs["model"], context.output / "model"
    device = set_up(context.runtime)
    quantization.show_log(context.runtime.log_level)
    tokens = TokenMixture.open(list(context.corpora("tokens").values()), "train", section.weights)
    model = folders.load_model(source)
    folders.check_vocabulary(model, tokens, source)
    _refuse_scheme(context, model.config)
    indices = _draw_sequences(context, tokens)
    sequences = folders.windows(tokens, indices, section.sequence_length)[:, :-1]
    calibration = sequences if quantization.needs_calibration(section.scheme) else sequences[:0]

    quantization.quantize(model, folders.load_tokenizer(source), section.scheme, calibration, device)
    probe = sequences[:1].to(device)
    expected = folders.logits(model, probe)
    if not expected.isfinite().all():
        raise StageError(
            f"{context.name}: the quantized model computes numbers that aren't finite; the weights in {source} are "
            "too large, most often by a learning rate that is too high"
        )
    quantization.save_compressed(model, directory)
    folders.copy_tokenizer(source, directory)
    artifacts.seal(directory, "model")
    difference = folders.largest_difference(folders.logits(folders.load_model(directory).to(device), probe), expected)
    # Not `>`, which is false for NaN.
    if not difference <= LOGITS_TOLERANCE:
        raise StageError(
            f"{context.name}: the saved model is not the quantized one: its logits differ by {difference:.3g} of the "
            f"largest logit, {LOGITS_TOLERANCE:.3g} is accepted"
        )

    dense, quantized = folders.weights_bytes(source), folders.weights_bytes(directory)
    metrics = {
        "bits_per_weight": 8 * quantized / folders.num_weights(source),
        "calibration_sequences": len(calibration),
        "dense_bytes": dense,
        "quantized_bytes": quantized,
        "ratio": dense / quantized,
    }
    artifacts.write_json(context.output / "metrics.json", metrics)


def _refuse_scheme(context: StageContext, config: Any) -> None:
    widths = (config.hidden_size, config.intermediate_size)
    found = checks.scheme_findings(context.section.scheme, config.model_type, *widths)
    violations = [Violation(f"{context.name}.{path}", reason) for path, reason in found]
    if violations:
        raise RecipeError(violations)


def _draw_sequences(context: StageContext, tokens: TokenMixture) -> list[int]:
    """Windows of the training split, from each corpus its share."""
    section: QuantizeSection = context.section
    length, drawn, first = section.sequence_length, [], 0
    for files, samples in zip(tokens.corpora, tokens.divide(section.calibration_samples), strict=True):
        available = files.num_windows(length)
        drawn += [first + index for index in quantization.draw(available, samples, section.seed)]
        first += available
    if not drawn:
        raise StageError(
            f"{', '.join(map(str, context.corpora('tokens').values()))}: the training split has {tokens.num_tokens} "
            f"tokens, too few for one sequence of {length}; use more text or a shorter objective.sequence_length"
        )
    if len(drawn) < section.calibration_samples:
        log.warning(
            "%s: the training split has only %d sequences of %d tokens for its share; they are all used, instead of %d",
            f"{context.name}.calibration_samples",
            len(drawn),
            length,
            section.calibration_samples,
        )
    return drawn
