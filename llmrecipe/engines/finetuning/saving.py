"""Trained students as artifacts: saved, and loaded again by a process of its own."""

import logging
from pathlib import Path

import torch
from transformers import GenerationConfig, PreTrainedModel

from llmrecipe import artifacts, cards
from llmrecipe.cards import ModelCard
from llmrecipe.engines.compression import reloading
from llmrecipe.engines.compression.quantization import LOGITS_TOLERANCE, save_compressed
from llmrecipe.engines.finetuning.models import is_quantized, straight
from llmrecipe.engines.models import folders
from llmrecipe.engines.tokenizing.folders import copy_files
from llmrecipe.engines.tokens.inputs import Tokens
from llmrecipe.errors import StageError

log = logging.getLogger(__name__)


def probe(tokens: Tokens, sequence_length: int) -> torch.Tensor:
    """A sequence to compare what models compute by: `int64[1, sequence_length]`."""
    return folders.windows(tokens.open("train"), [0], sequence_length)[:, :-1]


def save_and_verify(
    student: PreTrainedModel,
    directory: Path,
    card: ModelCard,
    *,
    tokenizer: Path,
    generation: Path | None,
    probe: torch.Tensor,
    device: str,
    scratch: Path,
) -> None:
    """Write a student to `directory`, and check that what was saved computes the same.

    Args:
        student: on the CPU.
        directory: becomes a model artifact.
        card: what the student is.
        tokenizer: a folder with its tokenizer.
        generation: a folder that says how it writes, if one does.
        probe: a sequence that both compute.
        device: where they do.
        scratch: a folder for what passes between the processes.

    Raises:
        StageError: its logits aren't finite, or the saved student computes others.
    """
    expected = folders.logits(student.to(device), probe.to(device)).cpu()
    if not expected.isfinite().all():
        raise StageError(
            f"{directory}: the trained student computes numbers that aren't finite; a lower "
            "training.optimizer.learning_rate may help"
        )
    log.info("saves the model, and compares what a fresh process computes with it")
    student.to("cpu")
    if is_quantized(student):
        straight().compress_when_saved(student)
        save_compressed(student, directory)
        copy_files(tokenizer, directory)
    else:
        # How a model writes is copied as it was published; transformers would refuse to write some of it.
        student.generation_config = GenerationConfig.from_model_config(student.config)
        folders.save_model(student, tokenizer, directory)
    if generation is not None:
        folders.copy_generation(generation, directory)
    cards.write(directory, card)
    artifacts.seal(directory, "model")
    found = reloading.logits_in_a_fresh_process(directory, probe.to(device), scratch)
    difference, accepted = folders.largest_difference(found, expected), LOGITS_TOLERANCE[device]
    # Not `>`, which is false for NaN.
    if not difference <= accepted:
        raise StageError(
            f"{directory}: the saved model is not the trained one: transformers computes logits that differ by "
            f"{difference:.3g} of the largest, {accepted:.3g} is accepted"
        )
