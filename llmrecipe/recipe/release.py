"""Which model leaves a recipe."""

import attrs

from llmrecipe.recipe.kinds import Gate, Model
from llmrecipe.recipe.schema import Word, define
from llmrecipe.recipe.validators import not_empty


@define("release")
class Release(Word):
    """The first of some models that passes all gates; all are made and measured, whichever it is.

    Its stage reads the comparison of the recipe, and leaves a copy of the model; if none passes, it fails and says why.
    """

    candidates: tuple[Model, ...] = attrs.field(validator=not_empty)
    """Models of the recipe, the most wanted first; with a dense one as the last, there is always one to take."""

    gates: tuple[Gate, ...] = attrs.field(validator=not_empty)
    """What a model has to show: `gate.Recovery(at_least=0.98)`."""
