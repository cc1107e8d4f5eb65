"""Recipes to the stages that carry them out. Pure: reads and writes nothing."""

from collections.abc import Sequence

from llmrecipe.errors import PlanError
from llmrecipe.plan import models, texts  # noqa: F401  (what they declare)
from llmrecipe.plan import recipes as _recipes  # noqa: F401
from llmrecipe.plan.draft import Draft
from llmrecipe.plan.pipeline import Pipeline
from llmrecipe.recipe.names import clashes
from llmrecipe.recipe.recipe import Recipe


def plan(recipes: Sequence[Recipe]) -> Pipeline:
    """The stages of `recipes`, the same whatever their order; what several ask for is planned once.

    Raises:
        PlanError: one name stands for two values, or a corpus searches a folder that stages write into.
    """
    ordered = sorted(recipes, key=lambda recipe: recipe.name)
    found = [str(violation) for violation in clashes(ordered)]
    if found:
        raise PlanError("\n".join(found))
    draft = Draft()
    for recipe in ordered:
        draft.need(recipe)
    return Pipeline(stages=tuple(draft.stages))
