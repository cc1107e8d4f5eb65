"""The text that models are measured on: the first sequences of the held-out split of each corpus."""

from collections.abc import Iterator
from functools import cached_property

import attrs
import numpy as np

from llmrecipe.engines.tokens.files import HeldoutDocuments, TokenFiles
from llmrecipe.engines.tokens.inputs import Tokens
from llmrecipe.errors import StageError


@attrs.frozen(kw_only=True, slots=False)
class HeldoutText:
    """The first windows of the held-out split of a corpus."""

    corpus: str
    """The corpus's name; empty if it is no part of a mixture."""

    tokens: TokenFiles
    """The whole split."""

    num_windows: int
    """Windows that are read, from the start of the split."""

    sequence_length: int
    """Tokens of a window that a model reads; it has one more, the last target."""

    @property
    def num_targets(self) -> int:
        """Every token of the windows but the very first is a target once, end-of-text tokens included."""
        return self.num_windows * self.sequence_length

    @property
    def bytes_per_token(self) -> float:
        """UTF-8 bytes of the split's text × the share of its text tokens that are targets, by target.

        A text token is any but end-of-text, which has no bytes.
        """
        is_end = [
            self.tokens.window(index, self.sequence_length)[1:] == self.tokens.end_of_text_id
            for index in range(self.num_windows)
        ]
        text_targets = self.num_targets - int(sum(map(np.count_nonzero, is_end)))
        text_tokens = self.tokens.num_tokens - self.tokens.num_documents
        return self.tokens.text_bytes * text_targets / text_tokens / self.num_targets

    @cached_property
    def documents(self) -> HeldoutDocuments:
        """The documents of the whole split."""
        return self.tokens.documents()

    @cached_property
    def training_counts(self) -> np.ndarray:
        """How often each token occurs in the training split, plus one (Laplace), `int64[vocab_size]`."""
        return TokenFiles.open(self.tokens.directory, "train").token_counts() + 1

    def window(self, index: int) -> np.ndarray:
        """The tokens of a window, `int64[sequence_length + 1]`."""
        return self.tokens.window(index, self.sequence_length).astype(np.int64)

    def sequence(self, index: int) -> np.ndarray:
        """The tokens of a window that a model reads, `int64[sequence_length]`."""
        return self.window(index)[:-1]


def heldout_texts(tokens: Tokens, num_windows: int, sequence_length: int) -> list[HeldoutText]:
    """The first windows of each corpus: its share of `num_windows`, or as many as its held-out split has.

    Raises:
        StageError: a split has none, or nothing in it but empty documents.
    """
    heldout = tokens.open("heldout")
    texts = []
    for corpus, files, share in zip(tokens.directories, heldout.corpora, heldout.divide(num_windows), strict=True):
        available = min(files.num_windows(sequence_length), share)
        if available == 0 or files.text_bytes == 0:
            raise StageError(
                f"{files.directory}: the held-out split has {files.num_tokens} tokens for {files.text_bytes} bytes of "
                f"text, too little for one sequence of {sequence_length}; use more text or a larger held-out part"
            )
        texts.append(HeldoutText(corpus=corpus, tokens=files, num_windows=available, sequence_length=sequence_length))
    return texts


def heldout_token_rows(tokens: Tokens, limit: int) -> Iterator[np.ndarray]:
    """The tokens of the first documents of each corpus, its share of `limit` of them, without end-of-text tokens."""
    heldout = tokens.open("heldout")
    for files, share in zip(heldout.corpora, heldout.divide(limit), strict=True):
        left = share
        for shard in files.shards:
            # A document is within one file.
            stops = np.flatnonzero(shard == files.end_of_text_id)[:left].tolist()
            for start, stop in zip([0, *(stop + 1 for stop in stops)], stops, strict=False):
                yield shard[start:stop].astype(np.int64)
            left -= len(stops)
