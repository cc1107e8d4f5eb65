"""A body of text: where it comes from, what happens to it and how it is split."""

import attrs

from llmrecipe.recipe.deduplication import Decontaminate
from llmrecipe.recipe.kinds import Augmenter, Cleaner, Source, Text
from llmrecipe.recipe.quantity import Fraction
from llmrecipe.recipe.schema import UNWRITTEN, FieldError, Word, define
from llmrecipe.recipe.validators import between, greater_than, no_duplicates, not_empty

ANY_SHARDS = 64
"""So many suit a corpus of any size; more than these need as many documents."""


def _share_of_documents(owner: object, attribute: attrs.Attribute, value: Fraction | Source) -> None:
    # A share that is none is said at the share itself.
    if isinstance(value, Fraction) and isinstance(value.of_total, int | float) and value.of_total > 0.5:
        reason = f"must be at most Fraction(0.5), got {value!r}; what is held out isn't learned from"
        raise FieldError(owner, attribute.name, reason)


@define("corpus")
class Corpus(Text):
    """A named body of text. Whatever reads the same corpus shares its stages."""

    name: str = attrs.field(validator=not_empty)
    """Its name in stage names and folders: letters, digits, `_` and `-`."""

    source: Source
    """Where the documents come from."""

    clean: tuple[Cleaner, ...] = ()
    """What happens to them, in order: what changes texts first, then what compares them."""

    heldout: Fraction | Source = attrs.field(default=Fraction(0.02), validator=_share_of_documents)
    """What is kept for evaluation: a share of the documents, or a source of its own, such as a published test file.

    A share is chosen by a hash of the documents' text, so equal texts are never parted; the text is that before the
    first cleaner which compares more than equality (`MinHashDedup`, `SentenceDedup`, `Decontaminate`), else that after
    the last cleaner. The documents of a source are all kept: cleaners that mend text apply to them, filters and
    deduplication drop none of them, and training documents that equal one of them, or nearly do so where the corpus
    has a `MinHashDedup`, are dropped.
    """

    augment: tuple[Augmenter, ...] = attrs.field(default=(), validator=no_duplicates)
    """What is made of the training documents and added to them; the held-out ones are left alone."""

    shards: int = attrs.field(default=4, validator=between(1, 10_000))
    """Number of files the documents are spread over, and the most workers that can share the work; more
    than 64 need as many documents."""

    def evaluation_sets(self) -> dict[str, Source]:
        """What its cleaners compare it with, by path: `clean[2].against[0]`."""
        return {
            f"clean[{index}].against[{number}]": source
            for index, cleaner in enumerate(self.clean)
            if isinstance(cleaner, Decontaminate)
            for number, source in enumerate(cleaner.against)
        }

    @property
    def parts(self) -> "tuple[Part, ...]":
        """The corpus as the only part of a mixture."""
        return (Part(corpus=self),)

    @property
    def sources(self) -> dict[str, Source]:
        """Every source that preparing it reads, by path."""
        heldout = {"heldout": self.heldout} if isinstance(self.heldout, Source) else {}
        return {"source": self.source, **heldout, **self.evaluation_sets()}


@define("part")
class Part(Word):
    """A corpus and how much of a mixture it makes up."""

    corpus: Corpus
    """The text."""

    weight: float = attrs.field(default=1.0, validator=greater_than(0, 1e9))
    """Training sequences drawn from it, relative to the other parts' weights; at least 1 in 500 of all."""


@define("mixture")
class Mixture(Text):
    """Several corpora, from which training sequences are drawn in fixed proportions.

    Each corpus is prepared and tokenized by itself, and no sequence holds text of two. Their weights decide which
    corpus each training sequence is taken from: in any 1,000 sequences in a row, each has its share to within two
    sequences. A corpus begins a new epoch, in another order, when it has been read, whatever the others are at. A
    tokenizer is trained on the training documents of all of them, unweighted.

    Corpora aren't compared with each other: equal texts fall into the same split if `heldout` is the same share, but
    near ones may not. `Decontaminate(against=…)` keeps out of one what is in the source of another.
    """

    given_name: str | None = attrs.field(default=None, alias="name", metadata=UNWRITTEN)
    """Its name in stage names and folders; the names of its corpora unless given: `web-books`."""

    parts: tuple[Part, ...] = attrs.field(validator=not_empty)
    """The corpora with their weights."""

    @property
    def name(self) -> str:
        """Its name in stage names and folders."""
        return self.given_name or "-".join(part.corpus.name for part in self.parts)
