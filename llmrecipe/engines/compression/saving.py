"""A compressed model to its folder, which a fresh process has to read as it was in memory."""

import logging
from collections.abc import Callable
from pathlib import Path

import torch
from transformers import PreTrainedModel

from llmrecipe import artifacts, cards
from llmrecipe.cards import ModelCard
from llmrecipe.engines.compression import reloading
from llmrecipe.engines.models import folders
from llmrecipe.engines.tokenizing.folders import copy_files
from llmrecipe.errors import StageError

log = logging.getLogger(__name__)

LOGITS_TOLERANCE = {"cpu": 0.0, "cuda": 1e-3}
"""Largest difference between the logits of the compressed model in memory and as saved, over the largest logit, by what
computes them.

Both compute with the same numbers in the same order, so rounding is the same in both, whatever the model's size and
weights; on a GPU, whose kernels are chosen anew, that is yet to be proved. A wrong scale or weight moves them by far
more.
"""


def save_and_verify(
    model: PreTrainedModel,
    save: Callable[[PreTrainedModel, Path], None],
    source: Path,
    directory: Path,
    card: ModelCard,
    probe: torch.Tensor,
    scratch: Path,
) -> None:
    """Write `model` to `directory` as an artifact, and check that what was saved computes the same.

    Args:
        model: the compressed model; where it is saved in another form, its weights may be gone afterwards.
        save: writes its weights and configuration to a folder.
        source: the model artifact that it was made from, for its tokenizer.
        directory: becomes a model artifact.
        card: what it is.
        probe: token ids `int64[batch, length]` whose logits are compared, on the device that computes.
        scratch: a folder, as it was at the end.

    Raises:
        StageError: the model computes numbers that aren't finite, or the saved one isn't the one in memory.
    """
    expected = folders.logits(model, probe)
    if not expected.isfinite().all():
        raise StageError(
            f"{source}: compressed, this model computes numbers that aren't finite; its weights are too large, most "
            "often by a learning rate that is too high"
        )
    log.info("saves the model, and compares what a fresh process computes with it")
    save(model, directory)
    copy_files(source, directory)
    folders.copy_generation(source, directory)
    cards.write(directory, card)
    artifacts.seal(directory, "model")
    found = reloading.logits_in_a_fresh_process(directory, probe, scratch)
    # llmcompressor leaves a model on the CPU, and its logits, that computes on a GPU.
    difference, accepted = folders.largest_difference(found, expected.cpu()), LOGITS_TOLERANCE[probe.device.type]
    # Not `>`, which is false for NaN.
    if not difference <= accepted:
        raise StageError(
            f"{directory}: the saved model is not the one in memory: transformers computes logits that differ "
            f"by {difference:.3g} of the largest, {accepted:.3g} is accepted"
        )
