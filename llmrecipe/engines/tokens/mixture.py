"""One split of one or more corpora, as one row of windows."""

from collections.abc import Sequence
from pathlib import Path

import attrs
import numpy as np

from llmrecipe.engines.tokens.files import TokenFiles
from llmrecipe.engines.tokens.masking import MaskedVocabulary
from llmrecipe.engines.tokens.order import SampleOrder, divide
from llmrecipe.errors import StageError


@attrs.frozen(kw_only=True, eq=False)
class TokenMixture:
    """The token files of one or more corpora and how they are mixed; no window holds tokens of two corpora."""

    corpora: tuple[TokenFiles, ...]
    """One split of each."""

    shares: tuple[float, ...]
    """Sequences drawn from each, relative to the others."""

    @classmethod
    def open(cls, directories: Sequence[Path], split: str, shares: Sequence[float]) -> "TokenMixture":
        """Map a split of the tokens artifacts in `directories`.

        Raises:
            StageError: as `TokenFiles.open`, or they don't go together with each other or with the shares.
        """
        if len(shares) != len(directories):
            raise StageError(
                f"shares: {len(shares)} for the {len(directories)} corpora {', '.join(map(str, directories))}; "
                "give each one, in this order"
            )
        corpora = tuple(TokenFiles.open(directory, split) for directory in directories)
        for directory, files in zip(directories, corpora, strict=True):
            if (files.vocab_size, files.end_of_text_id) != (corpora[0].vocab_size, corpora[0].end_of_text_id):
                raise StageError(f"{directory}: made with another tokenizer than {directories[0]}; run `dvc repro`")
        return cls(corpora=corpora, shares=tuple(shares))

    @property
    def vocab_size(self) -> int:
        """Tokens in the vocabulary."""
        return self.corpora[0].vocab_size

    @property
    def end_of_text_id(self) -> int:
        """The token that ends each document."""
        return self.corpora[0].end_of_text_id

    @property
    def num_tokens(self) -> int:
        """Tokens of the split, of all corpora."""
        return sum(files.num_tokens for files in self.corpora)

    @property
    def fractions(self) -> tuple[float, ...]:
        """The shares as fractions of 1."""
        return tuple(share / sum(self.shares) for share in self.shares)

    def divide(self, count: int) -> list[int]:
        """`count` in whole parts for the corpora, in the mixture's proportions."""
        return divide(count, self.shares)

    @property
    def masked_vocabulary(self) -> MaskedVocabulary:
        """What masking needs to know of the tokenizer.

        Raises:
            StageError: it has no mask token.
        """
        found = self.corpora[0].masked_vocabulary
        if found is None:
            raise StageError(
                "the tokenizer has no mask token, and this objective needs one; use WordPiece, or a "
                "pretrained tokenizer with a `mask_token`"
            )
        return found

    def special_ids(self, names: Sequence[str]) -> tuple[int, ...]:
        """The ids of special tokens that an objective names.

        Raises:
            StageError: the tokenizer lacks some, or texts became some.
        """
        known = {
            name: index
            for name, index in self.corpora[0].special_tokens.items()
            if all(name in files.special_tokens for files in self.corpora)
        }
        missing = [name for name in names if name not in known]
        if missing:
            raise StageError(
                f"the tokenizer has no special token {', '.join(map(repr, missing))}, or a text became it, while "
                "objective.fill_in_the_middle puts it into sequences; those that are free: "
                f"{', '.join(map(repr, known)) or 'none'}; name three of them, or use a tokenizer that has others"
            )
        return tuple(known[name] for name in names)

    def num_windows(self, sequence_length: int) -> int:
        """Windows of all corpora; see `TokenFiles.num_windows`."""
        return sum(files.num_windows(sequence_length) for files in self.corpora)

    def window(self, index: int, sequence_length: int) -> np.ndarray:
        """A window, numbered over the corpora in turn; see `TokenFiles.window`."""
        within = index
        for files in self.corpora:
            count = files.num_windows(sequence_length)
            if within < count:
                return files.window(within, sequence_length)
            within -= count
        raise IndexError(f"window {index} of {self.num_windows(sequence_length)}")

    def order(self, sequence_length: int, seed: int) -> SampleOrder:
        """The order in which a run reads the windows."""
        sizes = tuple(files.num_windows(sequence_length) for files in self.corpora)
        return SampleOrder(sizes=sizes, shares=self.shares, seed=seed)
