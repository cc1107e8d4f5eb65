"""A body of text: where it comes from, what happens to it and how it is split."""

import attrs

from llmrecipe.recipe.cleaning import Cleaner
from llmrecipe.recipe.schema import at_least, between, define, not_empty
from llmrecipe.recipe.source import Source


@define("corpus")
class Corpus:
    """A named body of text. Recipes that name the same corpus share its stages."""

    name: str = attrs.field(validator=not_empty)
    """Its name in stage names and folders: letters, digits, `_` and `-`."""

    source: Source
    """Where the documents come from."""

    clean: tuple[Cleaner, ...] = ()
    """What happens to them, in order."""

    heldout_fraction: float = attrs.field(default=0.02, validator=between(0, 0.5))
    """Share of the documents kept for evaluation, chosen by a hash of their text: equal texts never part."""

    shards: int = attrs.field(default=4, validator=at_least(1))
    """Number of files the documents are spread over, and the most workers that can share the work."""
