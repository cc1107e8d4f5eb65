"""The sequences that calibrate a scheme."""

import logging

import numpy as np
import torch

from llmrecipe.engines.models import folders
from llmrecipe.engines.tokens.mixture import TokenMixture
from llmrecipe.errors import StageError

log = logging.getLogger(__name__)


def draw(tokens: TokenMixture, sequence_length: int, samples: int, seed: int) -> torch.Tensor:
    """Sequences of the training split, each at most once, from each corpus its share.

    They are read whole, also where training restarts at documents: calibration looks for the range of the activations,
    not for a loss.

    Args:
        tokens: the training split.
        sequence_length: tokens in each.
        samples: how many; all, with a warning, if there are fewer.
        seed: decides which.

    Returns:
        Token ids, `int64[sequences, sequence_length]`.

    Raises:
        StageError: the split is shorter than one sequence.
    """
    drawn: list[int] = []
    first = 0
    for files, share in zip(tokens.corpora, tokens.divide(samples), strict=True):
        available = files.num_windows(sequence_length)
        chosen = np.random.default_rng(seed).choice(available, size=min(share, available), replace=False)
        drawn += (first + chosen).tolist()
        first += available
    if not drawn:
        raise StageError(
            f"{', '.join(str(files.directory) for files in tokens.corpora)}: the training split has "
            f"{tokens.num_tokens} tokens, too few for one sequence of {sequence_length}; use more text or a shorter "
            "objective.sequence_length"
        )
    if len(drawn) < samples:
        log.warning(
            "calibration_samples: the training split has only %d sequences of %d tokens for its share; they are all "
            "used, instead of %d",
            len(drawn),
            sequence_length,
            samples,
        )
    return folders.windows(tokens, drawn, sequence_length)[:, :-1]
