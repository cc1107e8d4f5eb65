"""A compressed model to its folder, which a fresh process has to read as it was in memory."""

import logging
from collections.abc import Callable
from pathlib import Path

import torch
from transformers import GenerationConfig, PreTrainedModel

from llmrecipe import artifacts, cards
from llmrecipe.cards import ModelCard
from llmrecipe.engines.compression import reloading
from llmrecipe.engines.models import folders
from llmrecipe.engines.tasks.heads import work_of
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
    directory: Path,
    card: ModelCard,
    *,
    tokenizer: Path,
    generation: Path | None,
    probe: torch.Tensor,
    scratch: Path,
) -> None:
    """Write `model` to `directory` as an artifact, and check that what was saved computes the same.

    Args:
        model: where it is saved in another form, its weights may be gone afterwards.
        save: writes its weights and configuration to a folder.
        directory: becomes a model artifact.
        card: what it is.
        tokenizer: a folder with its tokenizer.
        generation: a folder that says how it writes, if one does.
        probe: token ids `int64[batch, length]` whose logits are compared, on the device that computes.
        scratch: a folder, as it was at the end.

    Raises:
        StageError: the model computes numbers that aren't finite, or the saved one isn't the one in memory.
    """
    expected = folders.logits(model, probe)
    if not expected.isfinite().all():
        raise StageError(
            f"{directory}: this model computes numbers that aren't finite; its weights are too large, most often by a "
            "learning rate that is too high"
        )
    log.info("saves the model, and compares what a fresh process computes with it")
    save(model, directory)
    copy_files(tokenizer, directory)
    if generation is not None:
        folders.copy_generation(generation, directory)
    if card.task is not None:
        for name, text in work_of(card.task, folders.load_tokenizer(directory)).files(directory, card.network).items():
            (directory / name).parent.mkdir(exist_ok=True)
            artifacts.write_text(directory / name, text)
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


def save_plain(model: PreTrainedModel, directory: Path) -> None:
    """Write weights and configuration to `directory` as transformers does by itself."""
    # How a model writes is copied as it was published; transformers would refuse to write some of it.
    model.generation_config = GenerationConfig.from_model_config(model.config)
    # transformers' own: llmcompressor gives a model another way to save itself, which reads its parent's config.json.
    type(model).save_pretrained(model, directory, max_shard_size="5GB")
