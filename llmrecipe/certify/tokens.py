"""What a shrunk training reads: the recipe's own tokens, or made ones."""

import json
import random
import struct
from pathlib import Path

import attrs

from llmrecipe import artifacts
from llmrecipe.certify.shrink import GLOBAL_BATCH_SIZE, LARGEST_VOCAB, SEQUENCE_LENGTH, SMALLEST_VOCAB
from llmrecipe.errors import StageError

_VOCAB_SIZE = 320
# 93 sequences, so that twenty steps reach into a second epoch.
_COUNTS = {"train": 6_000, "heldout": 600}
_RUN = 50


@attrs.frozen(kw_only=True)
class Tokens:
    """A tokens artifact."""

    directory: Path
    """Its folder."""

    vocab_size: int
    """Tokens of the vocabulary."""

    origin: str
    """Whose they are, in words."""


def find_or_make(own: Path, made: Path) -> Tokens:
    """The recipe's own tokens in `own`, if they are there, whole and of use; else tokens made in `made`."""
    try:
        artifacts.open_artifact(own, "tokens")
    except StageError as error:
        return _make(made, str(error))
    description = json.loads((own / "tokens.json").read_text(encoding="utf-8"))
    vocab_size, splits = description["vocab_size"], description["splits"]
    if vocab_size < SMALLEST_VOCAB:
        return _make(made, f"the recipe's vocabulary of {vocab_size:,} is less than the bytes and one token more")
    if vocab_size > LARGEST_VOCAB:
        return _make(made, f"the recipe's vocabulary of {vocab_size:,} is more than a small model holds")
    for split, sequences in (("train", GLOBAL_BATCH_SIZE), ("heldout", 1)):
        if splits[split]["tokens"] <= sequences * SEQUENCE_LENGTH:
            return _make(made, f"{own}/{split} has {splits[split]['tokens']:,} tokens, too few")
    return Tokens(directory=own, vocab_size=vocab_size, origin=f"the recipe's own, {own}")


def _make(directory: Path, reason: str) -> Tokens:
    """Tokens of a language that can be learned: rising runs from random starts."""
    splits = {}
    for name, count in _COUNTS.items():
        (directory / name).mkdir(parents=True)
        draw = random.Random(name)
        starts = [draw.randrange(_VOCAB_SIZE) for _ in range(count // _RUN)]
        row = [(start + index) % _VOCAB_SIZE for start in starts for index in range(_RUN)]
        (directory / name / "00000.ds").write_bytes(struct.pack(f"<{count}H", *row))
        splits[name] = {"files": [f"{name}/00000.ds"], "tokens": count, "documents": 1, "text_bytes": count}
    description = {"dtype": "uint16", "vocab_size": _VOCAB_SIZE, "end_of_text_id": 0, "splits": splits}
    artifacts.write_json(directory / "tokens.json", description)
    artifacts.seal(directory, "tokens")
    return Tokens(directory=directory, vocab_size=_VOCAB_SIZE, origin=f"made ones ({reason})")
