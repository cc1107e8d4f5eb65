"""Cleaners that compare the documents of a corpus: with each other, or with the texts of evaluation sets.

What held-out and training documents share is taken from the training documents, never from those held out.
"""

import math
from typing import ClassVar

import attrs

from llmrecipe.recipe.kinds import Cleaner, Source
from llmrecipe.recipe.schema import FieldError, define
from llmrecipe.recipe.validators import between


def _inside_0_and_1(owner: object, attribute: attrs.Attribute, value: float) -> None:
    if not 0 < value < 1:
        raise FieldError(owner, attribute.name, f"must be greater than 0 and less than 1, got {value!r}")


@define("exact_dedup")
class ExactDedup(Cleaner):
    """Keep the first of documents whose texts are equal; one that is held out, if there is one."""

    compares: ClassVar[bool] = True
    drops_equals: ClassVar[bool] = True


@define("minhash_dedup")
class MinHashDedup(Cleaner):
    """Keep one of documents that share most of their n-grams (Broder 1997; Penedo et al. 2024, FineWeb).

    Two documents are as similar as the share of their n-grams that both have (Jaccard), and are found with the
    probability `1 - (1 - similarity ** hashes_per_band) ** bands`. The defaults are FineWeb's, 14 bands of 8 hashes:
    of pairs with the similarity 0.65 that is 36 %, with 0.72 65 %, with 0.8 92 %, with 0.9 99.9 %. Pairs chain up to
    clusters, of which the first document stays: the first that is held out, if there is one. Words are what white space
    separates, in lower case, without punctuation and accents, every number taken for 0. A document of fewer words than
    an n-gram resembles no other.
    """

    compares: ClassVar[bool] = True
    drops_equals: ClassVar[bool] = True
    needs_split: ClassVar[bool] = True

    ngram: int = attrs.field(default=5, validator=between(1, 1_000))
    """Words of an n-gram."""

    bands: int = attrs.field(default=14, validator=between(2, 1_000))
    """Groups of hashes; two documents are a pair if all hashes of one group are equal."""

    threshold: float = attrs.field(default=0.72, validator=_inside_0_and_1)
    """Similarity, as Jaccard's, at which finding a pair becomes likely."""

    @property
    def hashes_per_band(self) -> int:
        """The number that comes closest to the threshold, by `threshold = (1 / bands) ** (1 / hashes_per_band)`."""
        return max(1, round(math.log(self.bands) / -math.log(self.threshold)))

    @property
    def reached_threshold(self) -> float:
        """The threshold of this number of bands and hashes."""
        return (1 / self.bands) ** (1 / self.hashes_per_band)


@define("sentence_dedup")
class SentenceDedup(Cleaner):
    """Keep one of spans of sentences that are equal (Raffel et al. 2020, C4, section 2.2), and cut out the others.

    The first document keeps the span: the first that is held out, if there is one. Sentences are those of spaCy's
    sentencizer for English, and compared in lower case, without punctuation and accents, every number taken for 0. Of a
    document, the first 65,536 spans are compared.
    """

    changes_text: ClassVar[bool] = True
    compares: ClassVar[bool] = True
    needs_split: ClassVar[bool] = True

    sentences: int = attrs.field(default=3, validator=between(1, 1_000))
    """Sentences of a span; 3 as in C4."""

    min_words: int = attrs.field(default=50, validator=between(0, 10**9))
    """Fewest words that a document which was cut has to have left, else it is dropped; 50 as in datatrove."""

    min_sentences: int = attrs.field(default=3, validator=between(0, 10**9))
    """The same in sentences; 3 as in datatrove."""


@define("decontaminate")
class Decontaminate(Cleaner):
    """Drop training documents that share an n-gram with an evaluation set (Brown et al. 2020, GPT-3, appendix C).

    GPT-3 cuts out what is shared and 200 characters around it; here, as in datatrove, the document goes as a whole.
    Documents that are held out stay, since nothing trains on them. Words are those of `MinHashDedup`; of a text of
    fewer words than an n-gram nothing is found.
    """

    compares: ClassVar[bool] = True
    needs_split: ClassVar[bool] = True

    against: tuple[Source, ...] = ()
    """The evaluation sets: sources like that of a corpus. DVC watches their files."""

    heldout: bool = False
    """Whether the corpus's own held-out documents count as an evaluation set, too.

    This asks for more than that no two are nearly equal: one paragraph that many documents quote, such as a license,
    drops them all if it is in a held-out one.
    """

    ngram: int = attrs.field(default=13, validator=between(1, 1_000))
    """Words of an n-gram; 13 as for GPT-3."""
