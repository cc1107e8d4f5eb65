"""The tokens that a stage reads: those of a corpus, or of the corpora of a mixture."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs

from llmrecipe import artifacts, cards
from llmrecipe.cards import MixtureCard, TokensCard
from llmrecipe.engines.tokens.mixture import TokenMixture
from llmrecipe.errors import StageError

ROLE, MIXTURE_ROLE = "tokens", "mixture"

_PREFIX = f"{ROLE}."


@attrs.frozen(kw_only=True)
class Tokens:
    """Tokens artifacts, one for each corpus, and how they are mixed."""

    directories: dict[str, Path]
    """Their folders by the corpus's name, in the mixture's order; a corpus alone is ""."""

    shares: tuple[float, ...]
    """Sequences drawn from each, relative to the others."""

    @classmethod
    def of(cls, inputs: Mapping[str, Path]) -> "Tokens":
        """From a stage's inputs by role: `tokens`, or `mixture` and `tokens.NAME` for each of its corpora.

        Raises:
            StageError: the mixture isn't one of these tokens in this order.
        """
        parts = parts_of(inputs)
        if not parts and MIXTURE_ROLE not in inputs:
            return cls(directories={"": inputs[ROLE]}, shares=(1.0,))
        mixture = inputs[MIXTURE_ROLE]
        artifacts.open_artifact(mixture, "mixture")
        card = cards.read(mixture, MixtureCard)
        if card.corpora != tuple(parts):
            raise StageError(
                f"{mixture}: mixes the corpora {', '.join(card.corpora)}, and the inputs are {', '.join(parts)}; "
                "run `llmrecipe plan` and `dvc repro`"
            )
        for directory, digest in zip(parts.values(), card.tokens, strict=True):
            artifacts.open_artifact(directory, "tokens")
            if artifacts.file_digest(directory / artifacts.MANIFEST) != digest:
                raise StageError(f"{directory}: not the tokens that {mixture} was made for; run `dvc repro`")
        return cls(directories=parts, shares=card.shares)

    def open(self, split: str) -> TokenMixture:
        """Map the split `train` or `heldout` of all of them.

        Raises:
            StageError: as `TokenMixture.open`.
        """
        return TokenMixture.open(list(self.directories.values()), split, self.shares)

    def read(self, sequence_length: int, seed: int, samples: int) -> dict[str, Any]:
        """What the first samples of a run are: `epochs` of its corpus, or `corpora` with what is read of each."""
        order = self.open("train").order(sequence_length, seed)
        parts = {
            corpus: {"sequences": drawn, "share": drawn / samples, "epochs": drawn / size}
            for corpus, drawn, size in zip(self.directories, order.drawn(samples), order.sizes, strict=True)
        }
        return {"epochs": parts[""]["epochs"]} if "" in parts else {"corpora": parts}

    def say_what_is_lost(self, *splits: str) -> None:
        """Warn of text of these splits that the tokens lost."""
        for corpus, directory in self.directories.items():
            card = cards.read(directory, TokensCard)
            for split in splits:
                card.splits[split].lost.say(f"{corpus} {split}".strip())


def parts_of(inputs: Mapping[str, Path]) -> dict[str, Path]:
    """The folders of a mixture's tokens by the corpus's name, in the order of the inputs."""
    return {role.removeprefix(_PREFIX): path for role, path in inputs.items() if role.startswith(_PREFIX)}
