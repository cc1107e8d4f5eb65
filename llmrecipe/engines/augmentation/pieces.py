"""Long documents in pieces that a model can take."""

import re
from collections.abc import Callable, Sequence

from llmrecipe.engines.augmentation.alterations import PARAGRAPH, SENTENCE

_WORD = re.compile(r"(\s*)(\S+)")

_CHARACTERS_PER_TOKEN = 16
"""More than a tokenizer's tokens have on average: a longer text needn't be tokenized to know that it is too long."""

_LEAST_CHARACTERS_PER_TOKEN = 1 / 4
"""A character of four bytes may take four tokens."""


def split(text: str, lengths: Callable[[Sequence[str]], list[int]], most: int) -> list[str]:
    """Pieces of at most `most` tokens; joined they are the text.

    No piece continues after a blank line. A paragraph that is too long is cut between two sentences, a sentence between
    two words, and a word anywhere.

    Args:
        text: the document, without white space at its ends.
        lengths: tokens of each of some texts.
        most: tokens of a piece.
    """
    paragraphs = _cut(text, PARAGRAPH)
    return [piece for paragraph in paragraphs for piece in _fit(paragraph, lengths, most, (SENTENCE, _WORD))]


def _fit(
    text: str, lengths: Callable[[Sequence[str]], list[int]], most: int, units: tuple[re.Pattern[str], ...]
) -> list[str]:
    if len(text) <= _CHARACTERS_PER_TOKEN * most and lengths([text])[0] <= most:
        return [text]
    if not units:
        step = max(1, int(most * _LEAST_CHARACTERS_PER_TOKEN))
        return [text[start : start + step] for start in range(0, len(text), step)]
    parts, pieces, room = _cut(text, units[0]), [], 0
    short = [part for part in parts if len(part) <= _CHARACTERS_PER_TOKEN * most]
    known = iter(lengths(short) if short else [])
    for part in parts:
        length = next(known) if len(part) <= _CHARACTERS_PER_TOKEN * most else most + 1
        if length > most:
            pieces += _fit(part, lengths, most, units[1:])
            room = 0
        elif length <= room:
            pieces[-1] += part
            room -= length
        else:
            pieces.append(part)
            room = most - length
    return pieces


def _cut(text: str, unit: re.Pattern[str]) -> list[str]:
    """The units of a text, each with the white space before it."""
    return [gap + content for gap, content in unit.findall(text)]
