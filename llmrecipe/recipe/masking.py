"""What is masked together."""

import attrs

from llmrecipe.recipe.kinds import Masking
from llmrecipe.recipe.schema import FieldError, define
from llmrecipe.recipe.validators import between

__all__ = [
    "SingleTokens",
    "Spans",
    "WholeWords",
]


def share_of_tokens(owner: object, attribute: attrs.Attribute, value: float) -> None:
    """A validator: a share of a sequence's tokens."""
    if not 0 < value < 1:
        raise FieldError(owner, attribute.name, f"must be more than 0 and less than 1, got {value!r}; BERT's is 0.15")


@define("single_tokens")
class SingleTokens(Masking):
    """Each token is masked by itself (Devlin et al. 2019)."""


@define("whole_words")
class WholeWords(Masking):
    """All tokens of a word are masked, or none (whole-word masking, BERT's later release).

    A word begins where the tokenizer says so: at a token of WordPiece without `##`, or at one with a space before it.
    """


@define("spans")
class Spans(Masking):
    """Stretches of tokens are masked (Joshi et al. 2020, SpanBERT); lengths are geometric, cut at `max_length`.

    No span begins at a sequence's first token or touches another, so the token before each can be seen.
    All tokens of a span are replaced in the same way.
    """

    success_probability: float = attrs.field(default=0.2, validator=share_of_tokens)
    """Of the geometric distribution of lengths; SpanBERT's 0.2, cut at 10, gives 4.5 tokens on average."""

    max_length: int = attrs.field(default=10, validator=between(1, 10**7))
    """Tokens of the longest span."""
