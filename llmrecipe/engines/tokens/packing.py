"""Sequences into which documents are packed end to end: which document each token belongs to.

A document begins with the end-of-text token that closes the one before it, since that is where a model reads that a
new one begins: it predicts the document's first token. What a sequence holds before its first end-of-text token is a
document that began in an earlier one.
"""

from functools import cached_property

import torch


class PackedDocuments:
    """The documents in a batch of sequences, for attention and positions that restart with each."""

    def __init__(self, begins: torch.Tensor) -> None:
        """From `bool[batch, length]`, true where a document begins; a sequence's first token always begins one."""
        places = torch.arange(begins.shape[1], device=begins.device)
        # Where the document of each token began, which also tells it from the others.
        self._starts = torch.where(begins, places, 0).cummax(1).values
        self._places = places

    @property
    def positions(self) -> torch.Tensor:
        """Each token's place in its document, `int64[batch, length]`."""
        return self._places - self._starts

    @property
    def lengths(self) -> list[int]:
        """Tokens of each document, of one sequence after the other."""
        begins = (self._starts == self._places).flatten().nonzero()[:, 0].cpu()
        return begins.diff(append=torch.tensor([self._starts.numel()])).tolist()

    @cached_property
    def attended(self) -> torch.Tensor:
        """Whether a token (third dimension) may read another (fourth), `bool[batch, 1, length, length]`.

        It may if that is of the same document and not later.
        """
        return (self._starts[:, :, None] == self._starts[:, None, :]).tril_()[:, None]
