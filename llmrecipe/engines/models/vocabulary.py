"""Whether a model reads the tokens that it is given."""

from pathlib import Path

from llmrecipe import cards
from llmrecipe.cards import ModelCard, TokensCard
from llmrecipe.engines.tokens.inputs import Tokens
from llmrecipe.errors import StageError


def check_tokenizer(model: Path, card: ModelCard, tokens: Tokens) -> None:
    """Refuse tokens that another tokenizer made: the same numbers would stand for other text.

    Args:
        model: the model's folder, for the message.
        card: its card.
        tokens: what it is to read.

    Raises:
        StageError: the digests of the tokenizers differ.
    """
    for directory in tokens.directories.values():
        made_by = cards.read(directory, TokensCard).tokenizer
        if made_by != card.tokenizer:
            raise StageError(
                f"{directory}: made with another tokenizer ({made_by[:8]}…) than that of {model} "
                f"({card.tokenizer[:8]}…), so its tokens mean other text to the model; run `llmrecipe plan` and "
                "`dvc repro`, which tokenize text for each tokenizer"
            )
