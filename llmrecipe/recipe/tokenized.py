"""Text in a tokenizer's tokens."""

from llmrecipe.recipe.kinds import Text, Tokenizer
from llmrecipe.recipe.schema import Word, define
from llmrecipe.recipe.tokenizer import TrainedTokenizer


@define("tokenized_text")
class TokenizedText(Word):
    """A text in a tokenizer's tokens; whatever reads the same tokens shares them. Made by the planner."""

    text: Text
    """The text."""

    tokenizer: Tokenizer
    """The tokenizer, with the text that it is trained on."""

    @property
    def name(self) -> str:
        """Its name in stage names and folders; the tokenizer's alone if that was trained on this very text."""
        tokenizer = self.tokenizer
        if isinstance(tokenizer, TrainedTokenizer) and tokenizer.text == self.text and tokenizer.given_name is None:
            return tokenizer.name
        return f"{self.text.name}-{tokenizer.name}"
