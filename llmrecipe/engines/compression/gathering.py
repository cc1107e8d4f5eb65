"""What quantization needs to know of a text, gathered once for all schemes (`recipe.hessians`)."""

import logging
from pathlib import Path

import torch

from llmrecipe import cards
from llmrecipe.cards import HessiansCard
from llmrecipe.engines.compression.calibration import CalibrationText
from llmrecipe.engines.compression.oneshot import compress, linear_layers, ours
from llmrecipe.engines.models import folders

log = logging.getLogger(__name__)


def gather(
    source: Path, directory: Path, parents: dict[str, str], text: CalibrationText, device: torch.device, scratch: Path
) -> None:
    """Write the Hessians of the model in `source` on a text to `directory`, a file for each of its blocks.

    The Hessian of a linear layer is 2 · XᵀX, X all that it reads: float32[columns, columns].

    Args:
        source: a model artifact.
        directory: an empty folder, which gets a card too.
        parents: digests of what they are gathered of, by role.
        text: what is read.
        device: where it is computed; one block of the model is in memory at a time.
        scratch: a folder for what is as large as the model meanwhile; empty again at the end.

    Raises:
        StageError: llmcompressor refuses the model, or the text is too short.
    """
    model = folders.load_model(source)
    rows = text.sequences()
    log.info("reads %d sequences", len(rows))
    layers = tuple(linear_layers(model))
    with ours("offloading").offloaded(scratch):
        modifier = ours("hessians").Gathering(directory=directory, layers=layers)
        tokenizer = folders.load_tokenizer(source)
        compress(model, tokenizer, [modifier], rows, device, aim="gather Hessians of this model", propagate_error=False)
    cards.write(directory, HessiansCard(inputs=modifier.inputs, samples=text.samples, seed=text.seed, parents=parents))
