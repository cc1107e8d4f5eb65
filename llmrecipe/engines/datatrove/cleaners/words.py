"""Texts as words, n-grams and sentences."""

import itertools
import re
from collections.abc import Iterator

import numpy as np
from datatrove.utils.hashing import HashConfig, create_hash_func
from datatrove.utils.text import ngrams, simplify_text
from datatrove.utils.typeshelper import Languages
from datatrove.utils.word_tokenizers import WordTokenizer, load_word_tokenizer

_PIECE = 1_000_000
"""Characters of a text that are looked at together. spaCy takes 20 times their memory."""

_WHITE_SPACE = re.compile(r"\s+")

_LONGEST_WORD = 1000
"""Characters of the longest word that isn't cut: spaCy, and regular expressions, take time by the square of a word."""

_ENDLESS = re.compile(rf"(?<!\S)\S{{{_LONGEST_WORD + 1},}}")

_PART = re.compile(rf"""\S{{,{_LONGEST_WORD - 1}}}["<>(),;:]|\S{{1,{_LONGEST_WORD}}}""")
"""As much of an endless word as may be, up to a sign after which no e-mail address continues."""

HASH = HashConfig(hash_fc="sha1")
"""64 bits, as FineWeb has them. datatrove's other function fails on texts since xxhash 4."""

_hash = create_hash_func(HASH)


class PiecewiseTokenizer(WordTokenizer):
    """datatrove's tokenizer for English, over one piece of a text after the other, so long ones fit in memory.

    Texts are cut at white space, and within endless words; otherwise only a sentence may be cut in two.
    """

    def word_tokenize(self, text: str) -> list[str]:
        """The words, without white space."""
        return [word for _, piece in short_pieces(text) for word in _tokenizer().word_tokenize(piece)]

    def span_tokenize(self, text: str) -> list[tuple[int, int]]:
        """Where sentences start and end, in characters."""
        return [
            (start + first, start + last)
            for start, piece in short_pieces(text)
            for first, last in _tokenizer().span_tokenize(piece)
        ]

    def sent_tokenize(self, text: str) -> list[str]:
        """The sentences of these spans, one for each."""
        # datatrove's own leaves out those of white space, and so counts them differently from spans.
        return [text[first:last] for first, last in self.span_tokenize(text)]


def text_hash(text: str) -> int:
    """The hash of a whole text, as it is; 64 bits."""
    return _hash(text)


def words(text: str) -> Iterator[str]:
    """What white space separates, in lower case, without punctuation and accents, every number taken for 0."""
    for _, piece in pieces(text):
        # Without punctuation, spaCy finds next to nothing else, and takes thirty times as long.
        yield from simplify_text(piece).split()


def ngram(text: str, size: int, position: int) -> str:
    """One of the n-grams, in the order of `ngram_hashes`."""
    return " ".join(itertools.islice(words(text), position, position + size))


def ngram_hashes(text: str, size: int) -> np.ndarray:
    """The hashes of all n-grams of words, in order; `uint64`."""
    return np.fromiter((_hash(" ".join(gram)) for gram in ngrams(words(text), size)), np.uint64)


def pieces(text: str) -> Iterator[tuple[int, str]]:
    """A text cut at white space, each piece with where it starts."""
    start = 0
    while start < len(text):
        # A word may be longer than a piece; then it is cut.
        gap = _WHITE_SPACE.search(text, start + _PIECE, start + 2 * _PIECE)
        end = gap.end() if gap else start + 2 * _PIECE
        yield start, text[start:end]
        start = end


def short_pieces(text: str) -> Iterator[tuple[int, str]]:
    """The same, but cut within endless words, too."""
    for start, piece in pieces(text):
        last = 0
        for word in _ENDLESS.finditer(piece):
            for part in _PART.finditer(piece, *word.span()):
                yield start + last, piece[last : part.end()]
                last = part.end()
        if last < len(piece):
            yield start + last, piece[last:]


def _tokenizer() -> WordTokenizer:
    return load_word_tokenizer(Languages.english)
