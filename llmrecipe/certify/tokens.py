"""What a shrunk run reads: the model's own tokens, or made ones."""

import random
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

import attrs

from llmrecipe import artifacts, cards, identity
from llmrecipe.cards import MaskingCard, MixtureCard, SplitCard, TokensCard
from llmrecipe.certify.shrink import GLOBAL_BATCH_SIZE, LARGEST_VOCAB, SEQUENCE_LENGTH, SMALLEST_VOCAB
from llmrecipe.errors import StageError
from llmrecipe.recipe.kinds import Objective

MIXTURE = "mixture"
"""The role in which a stage reads how corpora are mixed; all others are those of tokens."""

_VOCAB_SIZE = 320
# 93 sequences, so twenty steps reach into a second epoch.
_COUNTS = {"train": 6_000, "heldout": 600}
_RUN = 50


@attrs.frozen(kw_only=True)
class Tokens:
    """What a run reads, one tokens artifact for each corpus."""

    inputs: Mapping[str, Path]
    """Their folders, and that of how they are mixed, by role."""

    vocab_size: int
    """Tokens of the vocabulary."""

    origin: str
    """Where they are from, in words."""


def find_or_make(own: Mapping[str, Path], shares: Sequence[float], objective: Objective, made: Path) -> Tokens:
    """The model's own tokens if they are there, whole and usable; else as many corpora made in `made`.

    Args:
        own: where the model's own are, by role.
        shares: sequences drawn from each corpus, relative to the others, in the order of the roles.
        objective: what is learned.
        made: a folder for made ones.
    """
    reason = next(filter(None, (_unfit(role, directory, objective) for role, directory in own.items())), None)
    if reason is not None:
        inputs = _make_all(own, shares, objective, made)
        return Tokens(inputs=inputs, vocab_size=_VOCAB_SIZE, origin=f"made ones ({reason})")
    corpora = [directory for role, directory in own.items() if role != MIXTURE]
    origin = f"the model's own, {', '.join(map(str, corpora))}"
    return Tokens(inputs=own, vocab_size=cards.read(corpora[0], TokensCard).vocab_size, origin=origin)


def _unfit(role: str, directory: Path, objective: Objective) -> str | None:
    """Why what is there can't be used, if so."""
    try:
        artifacts.open_artifact(directory, MIXTURE if role == MIXTURE else "tokens")
        card = None if role == MIXTURE else cards.read(directory, TokensCard)
    except StageError as error:
        return str(error)
    if card is None:
        return None
    if card.vocab_size < SMALLEST_VOCAB:
        return f"the model's vocabulary of {card.vocab_size:,} is less than the {SMALLEST_VOCAB} of the smallest"
    if card.vocab_size > LARGEST_VOCAB:
        return f"the model's vocabulary of {card.vocab_size:,} is more than a small model holds"
    if objective.is_masked and card.masking is None:
        return f"{directory} was made with a tokenizer that has no mask token"
    missing = [token for token in objective.special_tokens if token not in card.special_tokens]
    if missing:
        return f"{directory} was made with a tokenizer that has no special token {missing[0]!r}"
    for split, sequences in (("train", GLOBAL_BATCH_SIZE), ("heldout", 1)):
        if card.splits[split].tokens <= sequences * SEQUENCE_LENGTH:
            return f"{directory}/{split} has {card.splits[split].tokens:,} tokens, too few"
    return None


def _make_all(own: Mapping[str, Path], shares: Sequence[float], objective: Objective, made: Path) -> dict[str, Path]:
    roles = [role for role in own if role != MIXTURE]
    inputs = {role: made / str(number) for number, role in enumerate(roles)}
    for number, directory in enumerate(inputs.values()):
        _make(directory, number, objective.special_tokens)
    if MIXTURE not in own:
        return inputs
    mixture = made / MIXTURE
    mixture.mkdir()
    card = MixtureCard(
        corpora=tuple(role.removeprefix("tokens.") for role in roles),
        shares=tuple(shares),
        tokens=tuple(map(identity.of_artifact, inputs.values())),
    )
    cards.write(mixture, card)
    artifacts.seal(mixture, MIXTURE)
    return {MIXTURE: mixture, **inputs}


def _make(directory: Path, number: int, special_tokens: Sequence[str]) -> None:
    """Tokens of a language that can be learned: rising runs from random starts."""
    splits = {}
    for name, count in _COUNTS.items():
        (directory / name).mkdir(parents=True)
        draw = random.Random(f"{name}{number}")
        starts = [draw.randrange(_VOCAB_SIZE) for _ in range(count // _RUN)]
        row = [(start + index) % _VOCAB_SIZE for start in starts for index in range(_RUN)]
        (directory / name / "00000.ds").write_bytes(struct.pack(f"<{count}H", *row))
        splits[name] = SplitCard(files=(f"{name}/00000.ds",), tokens=count, documents=1, text_bytes=count)
    card = TokensCard(
        dtype="uint16",
        vocab_size=_VOCAB_SIZE,
        end_of_text_id=0,
        tokenizer="",
        splits=splits,
        # A run takes no notice of whether the texts hold them, too.
        special_tokens={token: index for index, token in enumerate(special_tokens, start=1)},
        masking=MaskingCard(mask_token_id=1, special_ids=(0, 1), continuing_ids=tuple(range(2, _VOCAB_SIZE, 3))),
    )
    cards.write(directory, card)
    artifacts.seal(directory, "tokens")
