"""The sequences that calibrate a scheme."""

import numpy as np
import torch

from llmrecipe.engines.models import folders
from llmrecipe.engines.tokens.mixture import TokenMixture
from llmrecipe.errors import StageError


def draw(tokens: TokenMixture, sequence_length: int, samples: int, *, seed: int) -> torch.Tensor:
    """Sequences of the training split, each at most once, from each corpus its share.

    They are read whole, also where training restarts at documents: calibration looks for the range of the activations,
    not for a loss.

    Args:
        tokens: the training split.
        sequence_length: tokens in each.
        samples: how many.
        seed: decides which.

    Returns:
        Token ids, `int64[samples, sequence_length]`.

    Raises:
        StageError: a corpus has fewer than its share.
    """
    drawn: list[int] = []
    first = 0
    for files, share in zip(tokens.corpora, tokens.divide(samples), strict=True):
        available = files.num_windows(sequence_length)
        if available < share:
            raise StageError(
                f"calibration_samples: {samples} were asked for, {share} of them of {files.directory}, whose training "
                f"split has {files.num_tokens} tokens, which make {available} sequences of {sequence_length}; ask for "
                "fewer, or use more text"
            )
        chosen = np.random.default_rng(seed).choice(available, size=share, replace=False)
        drawn += (first + chosen).tolist()
        first += available
    return folders.windows(tokens, drawn, sequence_length)[:, :-1]
