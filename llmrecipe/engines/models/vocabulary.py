"""Whether a model reads the tokens that it is given."""

from pathlib import Path

from transformers import PreTrainedModel

from llmrecipe import cards
from llmrecipe.cards import ModelCard, TokensCard
from llmrecipe.engines.tokens.inputs import Tokens
from llmrecipe.errors import StageError


def check_tokenizer(model: Path, card: ModelCard, tokens: Tokens) -> None:
    """Refuse tokens that another tokenizer made: the same numbers would mean other text.

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


def check_embeddings(directory: Path, card: ModelCard, model: PreTrainedModel) -> None:
    """Refuse a model that has no embedding for some tokens of its tokenizer.

    Args:
        directory: the model's folder, for the message.
        card: its card.
        model: the model in transformers.

    Raises:
        StageError: the tokenizer's vocabulary is larger than the model's.
    """
    if card.vocab_size > model.config.vocab_size:
        raise StageError(
            f"{directory}: the model knows {model.config.vocab_size} tokens, and its tokenizer has a vocabulary of "
            f"{card.vocab_size}; they don't belong together: delete the folder and run `dvc repro`"
        )
