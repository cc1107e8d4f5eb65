"""Tokens drawn at random, for each text by a generator of its own."""

from collections.abc import Sequence

import numpy as np
import torch
from transformers import LogitsProcessor, TopPLogitsWarper


class Draw(LogitsProcessor):
    """Makes the likeliest token one that is drawn: of logits with Gumbel noise, the largest is a sample (Gumbel 1954).

    Every text has a generator of its own, where transformers' sampling draws for a batch as a whole.
    """

    def __init__(self, generators: Sequence[np.random.Generator], temperature: float, top_p: float = 1.0) -> None:
        """
        Args:
            generators: one for each text of a batch.
            temperature: what logits are divided by.
            top_p: draw from the fewest tokens that hold this probability; 1 draws from all.
        """
        self._generators, self._temperature = generators, temperature
        self._nucleus = TopPLogitsWarper(top_p)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """The logits `[batch, vocab_size]` of the next token; the largest of each row is a sample."""
        scores = self._nucleus(input_ids, scores / self._temperature)
        noise = np.stack([generator.gumbel(size=scores.shape[-1]) for generator in self._generators])
        return scores + torch.from_numpy(noise).to(scores)
