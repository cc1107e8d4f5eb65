"""Which tokens a tokenizer has that exists already, before any stage has run."""

from pathlib import Path

from llmrecipe.pretrained.contents import Damaged
from llmrecipe.pretrained.place import Missing, locate
from llmrecipe.pretrained.tokens import TOKENIZER, ids_by_token, read_mapping
from llmrecipe.recipe.kinds import Tokenizer
from llmrecipe.recipe.model import PretrainedModel
from llmrecipe.recipe.tokenizer import PretrainedTokenizer


def ids_for(tokenizer: Tokenizer, root: Path) -> dict[str, int] | None:
    """The ids of a tokenizer's tokens; None if its files don't tell, or aren't there yet.

    Args:
        tokenizer: the tokenizer.
        root: the project's folder.
    """
    try:
        match tokenizer:
            case PretrainedTokenizer(model=PretrainedModel() as model):
                folder = locate(model, root)
            case PretrainedTokenizer(path=str() as path):
                folder = root / path
            case _:
                return None
        return ids_by_token(read_mapping(folder / TOKENIZER)) if (folder / TOKENIZER).is_file() else None
    except (Missing, Damaged):
        # Its stage will say better.
        return None
