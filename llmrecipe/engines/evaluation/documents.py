"""What predicting a held-out text costs, document by document."""

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import attrs
import numpy as np

from llmrecipe.engines.evaluation.heldout import HeldoutText
from llmrecipe.errors import StageError


@attrs.frozen(kw_only=True, eq=False)
class Predicted:
    """Some tokens of a held-out text, and how well they were predicted."""

    positions: np.ndarray
    """Their places in the split, `int64[tokens]`."""

    losses: np.ndarray
    """−log of the probability of each, in nats, `float64[tokens]`."""

    is_likeliest: np.ndarray | None = None
    """Whether each was held for the likeliest, `bool[tokens]`; None for a score that doesn't tell it."""


@attrs.frozen(kw_only=True)
class Means:
    """Means over the predicted tokens of a text, or of a mixture of texts."""

    loss: float
    """−log of the probability of a token, in nats."""

    accuracy: float
    """Share of the tokens that were held for the likeliest; 0 for a score that doesn't tell it."""

    bytes: float
    """UTF-8 bytes of text per token."""

    lost: float
    """Share of the text's characters that its tokens lost, though `bytes` counts them."""

    @classmethod
    def mixed(cls, means: Sequence["Means"], fractions: Sequence[float]) -> "Means":
        """Those of a mixture, of which each text is this fraction of 1."""
        rows = [attrs.astuple(each) for each in means]
        return cls(
            **{
                field.name: math.fsum(value * fraction for value, fraction in zip(column, fractions, strict=True))
                for field, column in zip(attrs.fields(cls), zip(*rows, strict=True), strict=True)
            }
        )


@attrs.frozen(kw_only=True, eq=False)
class DocumentSums:
    """What is summed over the predicted tokens of each document, `[documents]` each."""

    text: HeldoutText

    tokens: np.ndarray
    """How many they are."""

    text_tokens: np.ndarray
    """How many of them aren't end-of-text tokens."""

    losses: np.ndarray
    """−log of their probabilities, in nats."""

    num_likeliest: int
    """Predicted tokens of all documents that were held for the likeliest."""

    @classmethod
    def of(cls, text: HeldoutText, batches: Iterable[Predicted]) -> "DocumentSums":
        """Sum what was predicted of a text, batch by batch.

        Raises:
            StageError: nothing was.
        """
        ends = text.documents.ends
        tokens, text_tokens = np.zeros((2, len(ends)), dtype=np.int64)
        losses, num_likeliest = np.zeros(len(ends)), 0
        for batch in batches:
            documents = np.searchsorted(ends, batch.positions, side="right")
            tokens += np.bincount(documents, minlength=len(ends))
            text_tokens += np.bincount(documents[batch.positions != ends[documents] - 1], minlength=len(ends))
            losses += np.bincount(documents, batch.losses, minlength=len(ends))
            if batch.is_likeliest is not None:
                num_likeliest += int(np.count_nonzero(batch.is_likeliest))
        if not tokens.any():
            raise StageError(
                f"{text.tokens.directory}: the held-out sequences hold nothing but special tokens, which are never "
                "masked; use other text, or a tokenizer that knows its characters"
            )
        return cls(text=text, tokens=tokens, text_tokens=text_tokens, losses=losses, num_likeliest=num_likeliest)

    @property
    def means(self) -> Means:
        """The means over all documents."""
        count = int(self.tokens.sum())
        return Means(
            loss=math.fsum(self.losses) / count,
            accuracy=self.num_likeliest / count,
            bytes=self.text.bytes_per_token,
            lost=self.text.tokens.lost.total,
        )

    def rows(self) -> Iterator[dict[str, Any]]:
        """A row for each document that was read, in order; see `TokenMeasure`."""
        documents = self.text.documents
        last_read = int(np.searchsorted(documents.ends, self.text.num_targets - 1, side="right"))
        last = max(last_read, int(np.flatnonzero(self.tokens)[-1]))
        # All but the end-of-text token.
        sizes = np.diff(documents.ends[: last + 1], prepend=0) - 1
        text_bytes = documents.text_bytes[: last + 1] * self.text_tokens[: last + 1] / np.maximum(sizes, 1)
        where = {"corpus": self.text.corpus} if self.text.corpus else {}
        for index, bytes_of_part in enumerate(text_bytes.tolist()):
            row = {"id": documents.ids[index], "tokens": int(self.tokens[index]), "bytes": bytes_of_part}
            yield where | row | {"loss": float(self.losses[index])}
