"""Recipes to the stages that carry them out. Pure: reads and writes nothing."""

from collections.abc import Sequence

from llmrecipe.errors import PlanError
from llmrecipe.plan import models, texts  # noqa: F401  (what they declare)
from llmrecipe.plan import recipes as _recipes  # noqa: F401
from llmrecipe.plan.draft import Draft
from llmrecipe.plan.pipeline import Pipeline, around
from llmrecipe.plan.stage import Stage
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
    return Pipeline(stages=tuple(_in_order(draft.stages)))


def _in_order(stages: Sequence[Stage]) -> list[Stage]:
    """The stages, each after those that make what it reads: a path may name what a recipe of a later name makes."""
    makers = {product: stage for stage in stages for product in stage.products}
    ordered: dict[str, Stage] = {}

    def add(stage: Stage, above: frozenset[str]) -> None:
        for path in stage.inputs.values():
            maker = next((makers[place] for place in around(path) if place in makers), None)
            # One that needs itself is refused by the pipeline.
            if maker is not None and maker.name not in above | ordered.keys():
                add(maker, above | {maker.name})
        ordered.setdefault(stage.name, stage)

    for stage in stages:
        add(stage, frozenset({stage.name}))
    return list(ordered.values()) if len(ordered) == len(stages) else list(stages)
