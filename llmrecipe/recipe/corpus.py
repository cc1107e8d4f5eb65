"""A body of text: where it comes from, what happens to it and how it is split."""

import attrs

from llmrecipe.recipe.augmentation import Augmenter
from llmrecipe.recipe.cleaning import Cleaner
from llmrecipe.recipe.deduplication import Decontaminate
from llmrecipe.recipe.schema import at_least, between, define, greater_than, no_duplicates, not_empty
from llmrecipe.recipe.source import Source


@define("corpus")
class Corpus:
    """A named body of text. Recipes that name the same corpus share its stages."""

    name: str = attrs.field(validator=not_empty)
    """Its name in stage names and folders: letters, digits, `_` and `-`."""

    source: Source
    """Where the documents come from."""

    clean: tuple[Cleaner, ...] = ()
    """What happens to them, in order: what changes texts first, then what compares them."""

    heldout_fraction: float = attrs.field(default=0.02, validator=between(0, 0.5))
    """Share of the documents kept for evaluation, chosen by a hash of their text: equal texts never part.

    The text is that before the first cleaner which compares more than equality (MinHashDedup, SentenceDedup,
    Decontaminate), else that after the last cleaner.
    """

    augment: tuple[Augmenter, ...] = attrs.field(default=(), validator=no_duplicates)
    """What is made of the training documents and added to them; the held-out ones are left alone."""

    shards: int = attrs.field(default=4, validator=at_least(1))
    """Number of files the documents are spread over, and the most workers that can share the work."""

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


@define("part")
class Part:
    """A corpus and how much of a mixture it makes up."""

    corpus: Corpus
    """The text."""

    weight: float = attrs.field(default=1.0, validator=greater_than(0))
    """Training sequences drawn from it, relative to the other parts' weights; at least 1 in 500 of all."""


@define("mixture")
class Mixture:
    """Several corpora, from which training sequences are drawn in fixed proportions.

    Each corpus is prepared and tokenized by itself, and no sequence holds text of two. Their weights decide which
    corpus each training sequence is taken from: in any 1,000 sequences in a row, each has its share to within two
    sequences. A corpus begins a new epoch, in another order, when it has been read, whatever the others are at. The
    tokenizer is trained on the training documents of all of them, unweighted.

    Corpora aren't compared with each other: equal texts fall into the same split if `heldout_fraction` is the same, but
    near ones may not. `Decontaminate(against=…)` keeps out of one what stands in the source of another.
    """

    parts: tuple[Part, ...] = attrs.field(validator=not_empty)
    """The corpora with their weights."""
