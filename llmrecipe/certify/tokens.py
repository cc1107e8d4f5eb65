"""What a shrunk training reads: the recipe's own tokens, or made ones."""

import json
import random
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs

from llmrecipe import artifacts
from llmrecipe.certify.shrink import GLOBAL_BATCH_SIZE, LARGEST_VOCAB, SEQUENCE_LENGTH, SMALLEST_VOCAB
from llmrecipe.errors import StageError
from llmrecipe.recipe.objective import CausalLM, Objective

_VOCAB_SIZE = 320
# 93 sequences, so that twenty steps reach into a second epoch.
_COUNTS = {"train": 6_000, "heldout": 600}
_RUN = 50


@attrs.frozen(kw_only=True)
class Tokens:
    """Tokens artifacts, one for each corpus of a recipe."""

    directories: tuple[Path, ...]
    """Their folders."""

    vocab_size: int
    """Tokens of the vocabulary."""

    origin: str
    """Whose they are, in words."""


def find_or_make(own: Sequence[Path], objective: Objective, made: Path) -> Tokens:
    """The recipe's own tokens in `own`, if they are there, whole and of use; else as many corpora made in `made`."""
    options = objective.fill_in_the_middle if isinstance(objective, CausalLM) else None
    special_tokens = options.tokens if options else ()
    reason = next(filter(None, (_unfit(directory, objective, special_tokens) for directory in own)), None)
    if reason is not None:
        for number in range(len(own)):
            _make(made / str(number), number, special_tokens)
        directories = tuple(made / str(number) for number in range(len(own)))
        return Tokens(directories=directories, vocab_size=_VOCAB_SIZE, origin=f"made ones ({reason})")
    origin = f"the recipe's own, {', '.join(map(str, own))}"
    return Tokens(directories=tuple(own), vocab_size=_description(own[0])["vocab_size"], origin=origin)


def _unfit(directory: Path, objective: Objective, special_tokens: Sequence[str]) -> str | None:
    """Why the tokens there are of no use, if so."""
    try:
        artifacts.open_artifact(directory, "tokens")
    except StageError as error:
        return str(error)
    description = _description(directory)
    vocab_size, splits = description["vocab_size"], description["splits"]
    if vocab_size < SMALLEST_VOCAB:
        return f"the recipe's vocabulary of {vocab_size:,} is less than the {SMALLEST_VOCAB} of the smallest"
    if vocab_size > LARGEST_VOCAB:
        return f"the recipe's vocabulary of {vocab_size:,} is more than a small model holds"
    if not isinstance(objective, CausalLM) and "masking" not in description:
        return f"{directory} was made with a tokenizer that has no mask token"
    missing = [token for token in special_tokens if token not in description.get("special_tokens", ())]
    if missing:
        return f"{directory} was made with a tokenizer that has no special token {missing[0]!r}"
    for split, sequences in (("train", GLOBAL_BATCH_SIZE), ("heldout", 1)):
        if splits[split]["tokens"] <= sequences * SEQUENCE_LENGTH:
            return f"{directory}/{split} has {splits[split]['tokens']:,} tokens, too few"
    return None


def _description(directory: Path) -> dict[str, Any]:
    return json.loads((directory / "tokens.json").read_text(encoding="utf-8"))


def _make(directory: Path, number: int, special_tokens: Sequence[str]) -> None:
    """Tokens of a language that can be learned: rising runs from random starts."""
    splits = {}
    for name, count in _COUNTS.items():
        (directory / name).mkdir(parents=True)
        draw = random.Random(f"{name}{number}")
        starts = [draw.randrange(_VOCAB_SIZE) for _ in range(count // _RUN)]
        row = [(start + index) % _VOCAB_SIZE for start in starts for index in range(_RUN)]
        (directory / name / "00000.ds").write_bytes(struct.pack(f"<{count}H", *row))
        splits[name] = {"files": [f"{name}/00000.ds"], "tokens": count, "documents": 1, "text_bytes": count}
    masking = {"mask_token_id": 1, "special_ids": [0, 1], "continuing_ids": list(range(2, _VOCAB_SIZE, 3))}
    description = {"dtype": "uint16", "vocab_size": _VOCAB_SIZE, "end_of_text_id": 0, "splits": splits}
    description["masking"] = masking
    # A training takes no notice of whether the texts hold them, too.
    description["special_tokens"] = {token: index for index, token in enumerate(special_tokens, start=1)}
    artifacts.write_json(directory / "tokens.json", description)
    artifacts.seal(directory, "tokens")
