"""What a tokenizer has that exists already, before any stage has run."""

from pathlib import Path

from llmrecipe.pretrained.contents import Damaged
from llmrecipe.pretrained.gguf_header import header
from llmrecipe.pretrained.place import Missing, locate
from llmrecipe.pretrained.tokens import TOKENIZER, ids_by_token, read_mapping
from llmrecipe.recipe.kinds import Tokenizer
from llmrecipe.recipe.model import PretrainedModel
from llmrecipe.recipe.tokenizer import PretrainedTokenizer

_TEMPLATES = ("chat_template.jinja", "chat_template.json", "additional_chat_templates")
"""Files and folders of transformers with templates; one may be in `tokenizer_config.json` as well."""


def ids_for(tokenizer: Tokenizer, root: Path) -> dict[str, int] | None:
    """The ids of a tokenizer's tokens; None if its files don't tell, or aren't there yet.

    Args:
        tokenizer: the tokenizer.
        root: the project's folder.
    """
    try:
        place = _place(tokenizer, root)
        if place is None or not (place / TOKENIZER).is_file():
            return None
        return ids_by_token(read_mapping(place / TOKENIZER))
    except (Missing, Damaged):
        # Its stage will say better.
        return None


def has_chat_template(tokenizer: Tokenizer, root: Path) -> bool | None:
    """Whether a tokenizer can write chats; None if its files don't tell, or aren't there yet.

    Args:
        tokenizer: the tokenizer.
        root: the project's folder.
    """
    try:
        place = _place(tokenizer, root)
        if place is None:
            return None
        if place.is_file():
            return bool(header(place).values.get("tokenizer.chat_template"))
        if not (place / TOKENIZER).is_file():
            return None
        config = place / "tokenizer_config.json"
        is_in_config = config.is_file() and bool(read_mapping(config).get("chat_template"))
        return is_in_config or any((place / name).exists() for name in _TEMPLATES)
    except (Missing, Damaged):
        return None


def _place(tokenizer: Tokenizer, root: Path) -> Path | None:
    """Its folder, or the GGUF file that it is in; None where a stage makes it."""
    match tokenizer:
        case PretrainedTokenizer(model=PretrainedModel() as model):
            return locate(model, root)
        case PretrainedTokenizer(path=str() as path):
            return root / path
        case _:
            return None
