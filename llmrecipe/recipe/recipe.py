"""The whole recipe: models, and what is measured of them."""

import attrs

from llmrecipe.recipe.kinds import Model
from llmrecipe.recipe.measure import Measure, Perplexity
from llmrecipe.recipe.release import Release
from llmrecipe.recipe.schema import Word, define
from llmrecipe.recipe.validators import not_empty


@define("recipe")
class Recipe(Word):
    """Models that are made and compared.

    The models' own values say how each is made; what two recipes have in common is made once.
    """

    given_name: str | None = attrs.field(default=None, alias="name")
    """Its name in stage names and folders: letters, digits, `_` and `-`; that of its function unless given."""

    models: tuple[Model, ...] = attrs.field(validator=not_empty)
    """The models, in the order of the report; the first is the reference that the others are compared with."""

    measures: tuple[Measure, ...] = (Perplexity(),)
    """What is measured of each of them, all on the same text."""

    release: Release | None = None
    """Which of them leaves, by what was measured; None if none is to."""

    @property
    def name(self) -> str:
        """Its name in stage names and folders."""
        return self.given_name or "recipe"
