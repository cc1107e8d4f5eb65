"""Texts in parts: tokenizers take some hundred bytes of memory for each character that they are given at once."""

from collections.abc import Iterator

ENCODED_AT_ONCE = 1 << 20
"""Characters of the longest text that is encoded as a whole."""

LEARNED_AT_ONCE = 1 << 13
"""Characters that a tokenizer is trained on at once: its time grows with the square of a word that never ends."""


def cut(text: str, longest: int) -> Iterator[str]:
    """`text` in parts of at most `longest` characters, which join to it.

    A part ends before a single space between two words, where tokenizers begin a word, so the parts have the
    tokens of the whole. One in which there is no such place ends where it is full.
    """
    start = 0
    while len(text) - start > longest:
        stop = _end_of_word(text, start + 1, start + longest)
        yield text[start:stop]
        start = stop
    yield text[start:]


def _end_of_word(text: str, first: int, last: int) -> int:
    place = text.rfind(" ", first, last)
    while place > 0 and (text[place - 1].isspace() or text[place + 1].isspace()):
        place = text.rfind(" ", first, place)
    return place if place > 0 else last
