"""Recipes to the stages that carry them out. Pure: reads and writes nothing."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from llmrecipe.errors import PlanError
from llmrecipe.plan import distilled, fine_tuned, models, texts  # noqa: F401  (what they declare)
from llmrecipe.plan import recipes as _recipes  # noqa: F401
from llmrecipe.plan.draft import Draft
from llmrecipe.plan.pipeline import Pipeline, around
from llmrecipe.plan.stage import Stage
from llmrecipe.recipe.names import clashes
from llmrecipe.recipe.recipe import Recipe


class _Edge(NamedTuple):
    """A stage, the path of one of its inputs, and the stage that makes it."""

    reader: Stage
    path: str
    maker: Stage


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

    def add(stage: Stage, trail: tuple[_Edge, ...]) -> None:
        for path in stage.inputs.values():
            for maker in _makers(path, makers):
                edge = _Edge(stage, path, maker)
                _refuse_circle((*trail, edge), stages)
                if maker.name not in ordered:
                    add(maker, (*trail, edge))
        ordered.setdefault(stage.name, stage)

    for stage in stages:
        add(stage, ())
    # Of two stages with one name the pipeline says more.
    return list(ordered.values()) if len(ordered) == len(stages) else list(stages)


def _refuse_circle(trail: Sequence[_Edge], stages: Sequence[Stage]) -> None:
    """Refuse a stage that needs itself, at the path that a recipe names: others lead to what was planned before."""
    start = next((index for index, edge in enumerate(trail) if edge.reader is trail[-1].maker), None)
    if start is not None:
        order = [stage.name for stage in stages]
        reader, path, maker = next(
            edge for edge in trail[start:] if order.index(edge.maker.name) >= order.index(edge.reader.name)
        )
        raise PlanError(
            f"{reader.name}: its input {path!r} is of what {maker.name} makes, which needs {reader.name} first; give "
            "input files a folder of their own, such as data/"
        )


def _makers(path: str, makers: Mapping[str, Stage]) -> list[Stage]:
    """The stages that make what a path is in, or else what is in the folder that it is."""
    above = next((makers[place] for place in around(path) if place in makers), None)
    return [above] if above is not None else [makers[product] for product in makers if product.startswith(f"{path}/")]
