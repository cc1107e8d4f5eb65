"""The token files of one split, read through the page cache without loading them."""

import itertools
import json
from pathlib import Path

import attrs
import numpy as np

from llmrecipe import artifacts, cards
from llmrecipe.cards import DType, TokensCard
from llmrecipe.engines.tokens.masking import MaskedVocabulary
from llmrecipe.errors import StageError
from llmrecipe.lost import LostText

DTYPES: dict[DType, np.dtype] = {"uint16": np.dtype("<u2"), "uint32": np.dtype("<u4")}

_CHUNK = 1 << 20


@attrs.frozen(kw_only=True, eq=False)
class HeldoutDocuments:
    """The documents of held-out text, in the order of their tokens."""

    ids: tuple[str, ...]
    """Their ids."""

    ends: np.ndarray
    """Tokens up to the end of each, its end-of-text token included; `int64[len(ids)]`, rising."""

    text_bytes: np.ndarray
    """UTF-8 bytes of each text, `int64[len(ids)]`."""


@attrs.frozen(kw_only=True, eq=False)
class TokenFiles:
    """One split of a tokens artifact: its shards memory-mapped, and addressed as one long row of tokens."""

    shards: tuple[np.ndarray, ...]
    """Read-only tokens of every shard that isn't empty, `uint16` or `uint32`, in the order of the file list."""

    ends: np.ndarray
    """Tokens up to the end of each shard, `int64[len(shards)]`."""

    vocab_size: int
    """Tokens in the vocabulary, special ones included; every token is below it."""

    end_of_text_id: int
    """The token that ends each document."""

    num_documents: int
    """Documents in the split."""

    text_bytes: int
    """UTF-8 bytes of the documents' text."""

    lost: LostText
    """What its tokens lost of the text."""

    special_tokens: dict[str, int]
    """Names and ids of the special tokens that no text became and that have no role of their own."""

    masked_vocabulary: MaskedVocabulary | None
    """What masking needs to know of the tokenizer, if it has a mask token."""

    directory: Path
    """The artifact."""

    split: str
    """Which of its splits."""

    document_files: tuple[str, ...]
    """The files that list the split's documents, relative to `directory`; none for training documents."""

    @classmethod
    def open(cls, directory: Path, split: str) -> "TokenFiles":
        """Map the split `train` or `heldout` of the tokens artifact in `directory`.

        Raises:
            StageError: it is no whole tokens artifact, or its files don't hold the tokens that it lists.
        """
        artifacts.open_artifact(directory, "tokens")
        card = cards.read(directory, TokensCard)
        listed, dtype = card.splits[split], DTYPES[card.dtype]
        paths = [directory / name for name in listed.files]
        sizes = [path.stat().st_size for path in paths]
        if sum(sizes) != listed.tokens * dtype.itemsize:
            raise StageError(
                f"{directory / split}: the files hold {sum(sizes)} bytes, {listed.tokens} tokens of "
                f"{dtype.itemsize} bytes are listed in {cards.FILE}; delete {directory} and run `dvc repro`"
            )
        # An empty file can't be mapped.
        shards = tuple(np.memmap(path, dtype, mode="r") for path, size in zip(paths, sizes, strict=True) if size)
        return cls(
            shards=shards,
            ends=np.cumsum([len(shard) for shard in shards], dtype=np.int64),
            vocab_size=card.vocab_size,
            end_of_text_id=card.end_of_text_id,
            num_documents=listed.documents,
            text_bytes=listed.text_bytes,
            lost=listed.lost,
            special_tokens=card.special_tokens,
            masked_vocabulary=_masked_vocabulary(card),
            directory=directory,
            split=split,
            document_files=listed.document_files,
        )

    @property
    def num_tokens(self) -> int:
        """Tokens in the split, end-of-text tokens included."""
        return int(self.ends[-1]) if self.shards else 0

    def num_windows(self, sequence_length: int) -> int:
        """Windows of `sequence_length` inputs with a next token for each; what is left at the end is not used."""
        return max(0, self.num_tokens - 1) // sequence_length

    def window(self, index: int, sequence_length: int) -> np.ndarray:
        """Tokens `index * sequence_length` to `(index + 1) * sequence_length`, both included.

        The first `sequence_length` are inputs and the last `sequence_length` are their targets: neighbouring windows
        share one token, so every token but the split's first is a target exactly once. Documents and shards
        follow each other without a gap.

        Returns:
            `[sequence_length + 1]`, of the files' type. Within a shard a read-only view of the mapped file; across
            shards a copy of these tokens alone.

        Raises:
            IndexError: `index` is not below `num_windows(sequence_length)`.
        """
        if not 0 <= index < self.num_windows(sequence_length):
            raise IndexError(f"window {index} of {self.num_windows(sequence_length)}")
        start = index * sequence_length
        stop = start + sequence_length + 1
        first = int(np.searchsorted(self.ends, start, side="right"))
        parts = []
        for shard, end in zip(self.shards[first:], self.ends[first:].tolist(), strict=True):
            offset = end - len(shard)
            parts.append(shard[max(0, start - offset) : stop - offset])
            if end >= stop:
                break
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def documents(self) -> "HeldoutDocuments":
        """The documents of held-out text, in the order of the tokens.

        Raises:
            StageError: they aren't listed, or not as the files have them.
        """
        if not self.document_files:
            raise StageError(
                f"{self.directory}: lists no documents of the {self.split} split, which these tokens are measured by; "
                "delete it and run `dvc repro`"
            )
        ids: list[str] = []
        tokens: list[int] = []
        text_bytes: list[int] = []
        for name in self.document_files:
            for line in (self.directory / name).read_bytes().splitlines():
                row = json.loads(line)
                ids.append(row["id"])
                tokens.append(row["tokens"])
                text_bytes.append(row["text_bytes"])
        if (len(ids), sum(tokens), sum(text_bytes)) != (self.num_documents, self.num_tokens, self.text_bytes):
            raise StageError(
                f"{self.directory / self.split}: {len(ids)} documents of {sum(tokens)} tokens and {sum(text_bytes)} "
                f"bytes are listed, {cards.FILE} has {self.num_documents}, {self.num_tokens} and {self.text_bytes}; "
                f"delete {self.directory} and run `dvc repro`"
            )
        ends = np.cumsum(tokens, dtype=np.int64)
        return HeldoutDocuments(ids=tuple(ids), ends=ends, text_bytes=np.array(text_bytes, np.int64))

    def documents_within(self, num_tokens: int) -> int:
        """How many documents of held-out text the first `num_tokens` tokens are of."""
        left, count = num_tokens, 0
        for name in self.document_files:
            with open(self.directory / name, encoding="utf-8") as lines:
                for line in lines:
                    if left <= 0:
                        return count
                    left -= json.loads(line)["tokens"]
                    count += 1
        return count

    def token_counts(self) -> np.ndarray:
        """How often each token of the vocabulary occurs in the split, `int64[vocab_size]`."""
        counts = np.zeros(self.vocab_size, dtype=np.int64)
        for shard in self.shards:
            for start, stop in itertools.pairwise([*range(0, len(shard), _CHUNK), len(shard)]):
                counts += np.bincount(shard[start:stop], minlength=self.vocab_size)
        return counts


def _masked_vocabulary(card: TokensCard) -> MaskedVocabulary | None:
    if card.masking is None:
        return None
    is_special, goes_on = np.zeros((2, card.vocab_size), dtype=bool)
    is_special[list(card.masking.special_ids)] = True
    goes_on[list(card.masking.continuing_ids)] = True
    return MaskedVocabulary(mask_id=card.masking.mask_token_id, is_special=is_special, starts_word=~goes_on)
