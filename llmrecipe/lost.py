"""What a tokenizer loses of a text: characters that decoding the tokens doesn't give back.

A model never reads them, so they cost nothing to predict, and a number in bytes that counts them as read is wrong.
"""

import logging
import unicodedata
from collections import Counter

from llmrecipe.recipe.schema import Word, define

log = logging.getLogger(__name__)

MOST = 0.001
"""The share of a text's characters that may be lost: numbers in bytes are off by about as much."""

_EXAMPLES = 5


@define("lost_text")
class LostText(Word):
    """What tokens lost of a text."""

    share: float = 0.0
    """The characters that are lost and no white space, over all characters of the text."""

    white_space: float = 0.0
    """White space that is lost, over all characters of the text."""

    characters: str = ""
    """Some of those that are lost, the most frequent first."""

    @classmethod
    def of(cls, lost: Counter[str], characters: int) -> "LostText":
        """From how often each character is lost, of this many."""
        white_space = sum(count for character, count in lost.items() if character.isspace())
        total = max(1, characters)
        ranked = sorted((character.isspace(), -count, character) for character, count in lost.items())
        return cls(
            share=(lost.total() - white_space) / total,
            white_space=white_space / total,
            characters="".join(character for *_, character in ranked[:_EXAMPLES]),
        )

    @property
    def total(self) -> float:
        """The share of all characters that are lost."""
        return self.share + self.white_space

    @property
    def is_small(self) -> bool:
        """Whether numbers in bytes mean what they say."""
        return self.total <= MOST

    def told(self, text: str) -> str:
        """It in words, where it isn't small, of a text that is called so (`heldout`)."""
        examples = ", ".join(map(_shown, self.characters))
        if self.share <= MOST:
            examples = ", ".join(map(_shown, filter(str.isspace, self.characters)))
            return (
                f"{100 * self.white_space:.1f} % of the characters of the {text} text are white space that its tokens "
                f"don't give back ({examples}); no number in bytes is given for it"
            )
        return (
            f"{100 * self.total:.1f} % of the characters of the {text} text are lost in its tokens, which don't decode "
            f"to them (most often {examples}); no model reads them, measures take that text for easy, and no number in "
            "bytes is given for it"
        )

    def say(self, text: str) -> None:
        """Warn of it, or mention it if it is white space alone, which some tokenizers lose of every text."""
        if not self.is_small:
            log.log(logging.WARNING if self.share > MOST else logging.INFO, "%s", self.told(text))


def lost(text: str, decoded: str) -> Counter[str]:
    """How often each character of a text is missing in what its tokens decode to, in any order.

    Where decoding puts spaces between tokens, the text's own can't be told from them: each that is too much counts as
    one that is lost. SentencePiece's space before the first word is none.
    """
    if decoded in (text, f" {text}"):
        return Counter()
    if not text.startswith(" "):
        decoded = decoded.removeprefix(" ")
    before, after = Counter(text), Counter(decoded)
    missing = before - after
    missing[" "] += min((after - before)[" "], before[" "])
    return +missing


def _shown(character: str) -> str:
    # A mark on nothing would stand on the quote.
    return f"U+{ord(character):04X}" if unicodedata.combining(character) else repr(character)
