"""The text that models are measured on: the first sequences of the held-out split of each corpus."""

import math
from functools import cached_property
from pathlib import Path

import attrs
import numpy as np

from llmrecipe.engines.tokens.files import TokenFiles
from llmrecipe.engines.tokens.mixture import TokenMixture
from llmrecipe.errors import StageError


@attrs.frozen(kw_only=True, slots=False)
class HeldoutText:
    """The first windows of the held-out split of a corpus."""

    corpus: str
    """The corpus's name; empty if it is no part of a mixture."""

    directory: Path
    """Its tokens artifact."""

    tokens: TokenFiles
    num_windows: int
    sequence_length: int

    @property
    def num_targets(self) -> int:
        """Every token of the windows but the very first is a target once, end-of-text tokens included."""
        return self.num_windows * self.sequence_length

    @cached_property
    def target_counts(self) -> np.ndarray:
        """How often each token of the vocabulary is a target, `int64[vocab_size]`."""
        counts = np.zeros(self.tokens.vocab_size, dtype=np.int64)
        for index in range(self.num_windows):
            window = self.tokens.window(index, self.sequence_length)
            counts += np.bincount(window[1:], minlength=len(counts))
        return counts

    @property
    def bytes_per_target(self) -> float:
        """Bytes (UTF-8) of the split's text × the share of its text tokens that are targets, by target.

        A text token is any but end-of-text, which stands for no byte.
        """
        text_targets = self.num_targets - int(self.target_counts[self.tokens.end_of_text_id])
        text_tokens = self.tokens.num_tokens - self.tokens.num_documents
        return self.tokens.text_bytes * text_targets / text_tokens / self.num_targets

    @cached_property
    def training_counts(self) -> np.ndarray:
        """How often each token occurs in the training split, each count raised by one (Laplace)."""
        return TokenFiles.open(self.directory, "train").token_counts() + 1

    def sequence(self, index: int) -> np.ndarray:
        """The tokens of a window that a model reads, `int64[sequence_length]`."""
        return self.tokens.window(index, self.sequence_length)[:-1].astype(np.int64)


def heldout_texts(
    heldout: TokenMixture, directories: dict[str, Path], max_tokens: int, sequence_length: int, measure: str
) -> list[HeldoutText]:
    """Of each corpus as many whole windows as its share of `max_tokens` allows and its split has.

    Args:
        heldout: the held-out splits.
        directories: the corpora's tokens artifacts by name.
        max_tokens: of the measure, for all corpora together.
        sequence_length: tokens that a model reads at once.
        measure: the tag of the measure, for messages.

    Raises:
        StageError: there is none, or nothing in it but empty documents.
    """
    texts = []
    shares = heldout.divide(max_tokens // sequence_length)
    for (corpus, directory), tokens, share in zip(directories.items(), heldout.corpora, shares, strict=True):
        if share == 0:
            raise StageError(
                f"{measure}.max_tokens: {max_tokens} is less than one sequence of {sequence_length} tokens for each "
                f"corpus; use {math.ceil(1 / min(heldout.shares)) * sequence_length} or more"
            )
        num_windows = min(tokens.num_windows(sequence_length), share)
        if num_windows == 0 or tokens.text_bytes == 0:
            raise StageError(
                f"{directory}: the held-out split has {tokens.num_tokens} tokens for {tokens.text_bytes} bytes of "
                f"text, too little for one sequence of {sequence_length}; use more text or a larger "
                "corpus.heldout_fraction"
            )
        texts.append(
            HeldoutText(
                corpus=corpus,
                directory=directory,
                tokens=tokens,
                num_windows=num_windows,
                sequence_length=sequence_length,
            )
        )
    return texts
