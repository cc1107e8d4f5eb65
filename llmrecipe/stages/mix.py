"""Token files of several corpora to a mixture of them."""

from llmrecipe import artifacts, cards
from llmrecipe.cards import MixtureCard
from llmrecipe.engines.tokens.inputs import Tokens, parts_of
from llmrecipe.errors import StageError
from llmrecipe.sections import MixSection
from llmrecipe.stages.runner import StageContext


def run(context: StageContext[MixSection]) -> None:
    """Write the card of the mixture, which holds no tokens of its own.

    Raises:
        StageError: the corpora don't go together with each other or with the shares.
    """
    parts, shares = parts_of(context.inputs), context.section.shares
    if not parts:
        raise StageError(f"{context.name}: no input tokens.NAME, and corpora are what it mixes; run `llmrecipe plan`")
    mixture = Tokens(directories=parts, shares=shares).open("train")
    directory = context.output / "mixture"
    directory.mkdir()
    parents = context.parents
    card = MixtureCard(
        corpora=tuple(parts), shares=shares, tokens=tuple(parents[f"tokens.{corpus}"] for corpus in parts)
    )
    cards.write(directory, card)
    artifacts.seal(directory, "mixture")
    context.measured["tokens"] = mixture.num_tokens
