"""What happens to the documents of a corpus before they are split: repairs, filters and deduplication.

The filters' defaults are those of the papers that they come from, all written for English web text.
"""

import attrs

from llmrecipe.recipe.schema import at_least, between, define, greater_than


@define("fix_unicode")
class FixUnicode:
    """Repair mis-decoded text (mojibake, broken entities, control characters) with ftfy."""


@define("exact_dedup")
class ExactDedup:
    """Keep the first of documents whose texts are equal."""


@define("gopher_quality")
class GopherQuality:
    """Drop documents that don't look like prose (Rae et al. 2021, Gopher, appendix A.1.1).

    Words are those of spaCy's tokenizer for English. A word that is punctuation alone counts neither for the number of
    words nor for their mean length.
    """

    min_words: int = attrs.field(default=50, validator=at_least(1))
    """Fewest words of a document."""

    max_words: int = attrs.field(default=100_000, validator=at_least(1))
    """Most words of a document."""

    min_mean_word_length: float = attrs.field(default=3.0, validator=greater_than(0))
    """Smallest mean length of a word, in characters."""

    max_mean_word_length: float = attrs.field(default=10.0, validator=greater_than(0))
    """Largest mean length of a word, in characters."""

    max_symbols_per_word: float = attrs.field(default=0.1, validator=greater_than(0))
    """Most hash signs, and most ellipses, for each word."""

    max_bullet_lines: float = attrs.field(default=0.9, validator=between(0, 1))
    """Largest share of lines that start with a bullet; 0 doesn't look."""

    max_ellipsis_lines: float = attrs.field(default=0.3, validator=between(0, 1))
    """Largest share of lines that end with an ellipsis; 0 doesn't look."""

    min_alphabetic_words: float = attrs.field(default=0.8, validator=between(0, 1))
    """Smallest share of words with a letter; 0 doesn't look."""

    min_stop_words: int = attrs.field(default=2, validator=at_least(0))
    """Fewest of the words the, be, to, of, and, that, have, with that occur; 0 doesn't look."""


@define("gopher_repetition")
class GopherRepetition:
    """Drop documents that repeat themselves (Rae et al. 2021, Gopher, table A1).

    The limits for n-grams are those of the paper: the most frequent of 2, 3 or 4 words may cover 0.20, 0.18 or 0.16 of
    the characters, and all that occur twice, of 5 to 10 words, 0.15 to 0.10.
    """

    max_duplicate_lines: float = attrs.field(default=0.3, validator=between(0, 1))
    """Largest share of lines that occurred before; 0 doesn't look."""

    max_duplicate_paragraphs: float = attrs.field(default=0.3, validator=between(0, 1))
    """Largest share of paragraphs that occurred before; 0 doesn't look."""

    max_duplicate_line_characters: float = attrs.field(default=0.2, validator=between(0, 1))
    """Largest share of characters in such lines; 0 doesn't look."""

    max_duplicate_paragraph_characters: float = attrs.field(default=0.2, validator=between(0, 1))
    """Largest share of characters in such paragraphs; 0 doesn't look."""


@define("c4_quality")
class C4Quality:
    """Drop lines and documents as C4 does (Raffel et al. 2020, section 2.2), its list of bad words left out.

    Lines that don't end in punctuation, are too short, mention javascript, or cookies and terms of use, are dropped;
    documents with a curly bracket or "lorem ipsum", and those of which too few sentences are left.
    """

    min_sentences: int = attrs.field(default=5, validator=at_least(1))
    """Fewest sentences that are left of a document."""

    min_words_per_line: int = attrs.field(default=3, validator=at_least(1))
    """Fewest words of a line."""

    max_word_length: int = attrs.field(default=1000, validator=at_least(1))
    """Longest word of a line, in characters."""

    terminal_punctuation: bool = True
    """Whether a line has to end in punctuation."""

    curly_brackets: bool = False
    """Whether a document may hold a curly bracket, as code does."""


@define("fineweb_quality")
class FineWebQuality:
    """Drop documents that are lists or fragments (Penedo et al. 2024, FineWeb, section 3.5)."""

    min_punctuated_lines: float = attrs.field(default=0.12, validator=between(0, 1))
    """Smallest share of lines that end in punctuation."""

    max_short_lines: float = attrs.field(default=0.67, validator=between(0, 1))
    """Largest share of lines of at most `short_line_length` characters."""

    short_line_length: int = attrs.field(default=30, validator=at_least(1))
    """The longest line that counts as short, in characters."""

    max_duplicate_line_characters: float = attrs.field(default=0.01, validator=between(0, 1))
    """Largest share of characters in lines that occurred before."""

    max_newlines_per_word: float = attrs.field(default=0.3, validator=greater_than(0))
    """Most line breaks for each word."""


@define("mask_personal_data")
class MaskPersonalData:
    """Put made-up addresses in the place of e-mail addresses and public IP addresses, as FineWeb does."""

    emails: bool = True
    """Whether e-mail addresses are replaced."""

    ip_addresses: bool = True
    """Whether public IP addresses are replaced; private ones stay."""


Cleaner = FixUnicode | ExactDedup | GopherQuality | GopherRepetition | C4Quality | FineWebQuality | MaskPersonalData
