"""How large a vocabulary is, before any stage has run."""

from pathlib import Path

from llmrecipe.pretrained.contents import Damaged
from llmrecipe.pretrained.place import Missing, locate
from llmrecipe.pretrained.reading import read
from llmrecipe.pretrained.tokens import tokens_of
from llmrecipe.recipe.kinds import Tokenizer
from llmrecipe.recipe.model import PretrainedModel
from llmrecipe.recipe.tokenizer import PretrainedTokenizer, TrainedTokenizer


def rows_for(tokenizer: Tokenizer, root: Path) -> int | None:
    """Rows of an embedding for the tokens of a tokenizer; None if that isn't known yet.

    Args:
        tokenizer: the tokenizer.
        root: the project's folder.
    """
    try:
        match tokenizer:
            case TrainedTokenizer():
                return tokenizer.vocab_size
            case PretrainedTokenizer(model=PretrainedModel() as model):
                return read(model, locate(model, root), is_whole=model.hub is None).rows
            case PretrainedTokenizer(path=str() as path):
                found = tokens_of(root / path)
                return None if found is None else found.count
    except (Missing, Damaged):
        # Its stage will say better.
        pass
    return None
