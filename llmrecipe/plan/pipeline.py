"""Stages in the order in which they run."""

from collections import Counter
from collections.abc import Mapping
from itertools import chain

import attrs

from llmrecipe.errors import PlanError
from llmrecipe.plan.stage import Stage
from llmrecipe.recipe.runtime import Runtime


@attrs.frozen(kw_only=True)
class Pipeline:
    """All stages of one or more recipes, each after those whose products it reads.

    Raises:
        PlanError: two stages have one name or one product, or a stage stands before one that it needs.
    """

    stages: tuple[Stage, ...]
    """In an order in which they can run."""

    runtimes: Mapping[str, Runtime]
    """Runtime choices by the stages' owner."""

    def __attrs_post_init__(self) -> None:
        _refuse_twins("name", (stage.name for stage in self.stages))
        _refuse_twins("output", chain.from_iterable(stage.products for stage in self.stages))
        made_later = {product for stage in self.stages for product in stage.products}
        for stage in self.stages:
            too_early = made_later.intersection(stage.inputs.values())
            if too_early:
                raise PlanError(f"{stage.name}: its input {min(too_early)} is made by this stage or a later one")
            made_later.difference_update(stage.products)


def _refuse_twins(what: str, values) -> None:
    twins = sorted(value for value, count in Counter(values).items() if count > 1)
    if twins:
        raise PlanError(f"two stages have the {what} {', '.join(twins)}")
