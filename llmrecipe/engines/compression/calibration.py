"""The text that calibrates a scheme."""

import attrs
import numpy as np
import torch

from llmrecipe.engines.models import folders
from llmrecipe.engines.tokens.mixture import TokenMixture
from llmrecipe.errors import StageError


@attrs.frozen(kw_only=True)
class CalibrationText:
    """Sequences of a training split, read whole, also where training restarts at documents.

    Calibration looks for the range of the activations, not for a loss.
    """

    tokens: TokenMixture
    """The training split."""

    sequence_length: int
    """Tokens in a sequence."""

    samples: int
    """How many calibrate."""

    seed: int
    """Decides which."""

    def sequences(self) -> torch.Tensor:
        """Those that calibrate, each at most once, from each corpus its share: `int64[samples, sequence_length]`.

        Raises:
            StageError: a corpus has fewer than its share.
        """
        chosen: list[int] = []
        first = 0
        for files, share in zip(self.tokens.corpora, self.tokens.divide(self.samples), strict=True):
            available = files.num_windows(self.sequence_length)
            if available < share:
                raise StageError(
                    f"calibration_samples: {self.samples} were asked for, {share} of them of {files.directory}, whose "
                    f"training split has {files.num_tokens} tokens, which make {available} sequences of "
                    f"{self.sequence_length}; ask for fewer, or use more text"
                )
            drawn = np.random.default_rng(self.seed).choice(available, size=share, replace=False)
            chosen += (first + drawn).tolist()
            first += available
        return self._read(chosen)

    def one(self) -> torch.Tensor:
        """The first there is, to compare what models compute: `int64[1, sequence_length]`.

        Raises:
            StageError: the split is shorter than a sequence.
        """
        if not any(files.num_windows(self.sequence_length) for files in self.tokens.corpora):
            raise StageError(
                f"{', '.join(str(files.directory) for files in self.tokens.corpora)}: the training split has "
                f"{self.tokens.num_tokens} tokens, too few for one sequence of {self.sequence_length}; use more text "
                "or a shorter objective.sequence_length"
            )
        return self._read([0])

    def _read(self, windows: list[int]) -> torch.Tensor:
        return folders.windows(self.tokens, windows, self.sequence_length)[:, :-1]
