"""Tokens artifacts of tokens at hand, such as made ones."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from llmrecipe import artifacts, cards
from llmrecipe.cards import DType, MaskingCard, SplitCard, TokensCard
from llmrecipe.engines.tokens.files import DTYPES

TOKENS_SUFFIX = ".ds"
"""The suffix of token files."""


def write_tokens(
    directory: Path,
    splits: Mapping[str, Sequence[np.ndarray]],
    *,
    vocab_size: int,
    end_of_text_id: int = 0,
    special_tokens: dict[str, int] | None = None,
    masking: MaskingCard | None = None,
    tokenizer: str = "",
    text_bytes: Mapping[str, Sequence[Sequence[int]]] | None = None,
) -> Path:
    """Write a whole tokens artifact.

    Args:
        directory: where; it may exist.
        splits: by split, the tokens of each of its files. A document ends with an end-of-text token, the last one of a
            file with the file.
        vocab_size: tokens in the vocabulary; also decides their type in the files.
        end_of_text_id: the token that ends each document.
        special_tokens: names and ids of further special tokens.
        masking: what masking needs to know, for a tokenizer with a mask token.
        tokenizer: digest of the tokenizer's manifest.
        text_bytes: by split and file, the UTF-8 bytes of each document; one for each token unless given.

    Returns:
        `directory`.
    """
    dtype = dtype_of(vocab_size)
    card = TokensCard(
        dtype=dtype,
        vocab_size=vocab_size,
        end_of_text_id=end_of_text_id,
        tokenizer=tokenizer,
        splits={
            split: _write_split(
                directory,
                split,
                [np.asarray(shard, DTYPES[dtype]) for shard in shards],
                end_of_text_id,
                text_bytes[split] if text_bytes else None,
            )
            for split, shards in splits.items()
        },
        special_tokens=special_tokens or {},
        masking=masking,
    )
    cards.write(directory, card)
    artifacts.seal(directory, "tokens")
    return directory


def dtype_of(vocab_size: int) -> DType:
    """The narrower of the types that holds every token."""
    return "uint16" if vocab_size <= 1 << 16 else "uint32"


def listing_of(file: str) -> str:
    """The name of the file that lists the documents of a file of held-out tokens."""
    return f"{file.removesuffix(TOKENS_SUFFIX)}.documents.jsonl"


def document_row(document: str, tokens: int, text_bytes: int) -> str:
    """A document's line in such a file: its id, its tokens and the UTF-8 bytes of its text."""
    return json.dumps({"id": document, "text_bytes": text_bytes, "tokens": tokens}) + "\n"


def _write_split(
    directory: Path,
    split: str,
    shards: Sequence[np.ndarray],
    end_of_text_id: int,
    text_bytes: Sequence[Sequence[int]] | None,
) -> SplitCard:
    (directory / split).mkdir(parents=True, exist_ok=True)
    names = [f"{split}/{index:05d}{TOKENS_SUFFIX}" for index in range(len(shards))]
    lengths = [_document_lengths(shard, end_of_text_id) for shard in shards]
    sizes = text_bytes or lengths
    is_heldout = split == "heldout"
    for name, shard, tokens, size in zip(names, shards, lengths, sizes, strict=True):
        shard.tofile(directory / name)
        if is_heldout:
            rows = [
                document_row(f"{name}:{number}", *counts)
                for number, counts in enumerate(zip(tokens, size, strict=True), 1)
            ]
            (directory / listing_of(name)).write_text("".join(rows), encoding="utf-8")
    return SplitCard(
        files=tuple(names),
        tokens=sum(map(len, shards)),
        documents=sum(map(len, lengths)),
        text_bytes=sum(map(sum, sizes)),
        document_files=tuple(map(listing_of, names)) if is_heldout else (),
    )


def _document_lengths(shard: np.ndarray, end_of_text_id: int) -> list[int]:
    """Tokens of each document, end-of-text tokens included."""
    ends = np.unique(np.append(np.flatnonzero(shard == end_of_text_id) + 1, len(shard)))
    return np.diff(ends, prepend=0).tolist() if len(shard) else []
