"""Stages in the order in which they run."""

from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import chain

import attrs

from llmrecipe import layout
from llmrecipe.errors import PlanError
from llmrecipe.plan.stage import Stage


@attrs.frozen(kw_only=True)
class Pipeline:
    """All stages of one or more recipes, each after those whose products it reads.

    Raises:
        PlanError: two stages have one name or one product, or a stage reads what it or a later one makes.
    """

    stages: tuple[Stage, ...]
    """In an order in which they can run."""

    def __attrs_post_init__(self) -> None:
        _refuse_twins("name", (stage.name for stage in self.stages))
        _refuse_twins("output", chain.from_iterable(stage.products for stage in self.stages))
        made: set[str] = set()
        products = {product for stage in self.stages for product in stage.products}
        for stage in self.stages:
            for path in stage.inputs.values():
                if made.isdisjoint(around(path)):
                    _refuse_future(stage.name, path, products - made)
            made.update(stage.products)

    def unmade(self) -> Iterator[tuple[str, str]]:
        """The name of a stage and the path of its input, where that is among the artifacts and no stage makes it."""
        products = {product for stage in self.stages for product in stage.products}
        folders = {folder for product in products for folder in around(product)}
        for stage in self.stages:
            for path in stage.inputs.values():
                is_artifact = path.partition("/")[0] == layout.ARTIFACTS
                if is_artifact and path not in folders and products.isdisjoint(around(path)):
                    yield stage.name, path


def around(path: str) -> list[str]:
    """A path, and the folders that it is in."""
    parts = path.split("/")
    return ["/".join(parts[:count]) for count in range(len(parts), 0, -1)]


def _refuse_twins(what: str, values: Iterable[str]) -> None:
    twins = sorted(value for value, count in Counter(values).items() if count > 1)
    if twins:
        raise PlanError(
            f"two stages have the {what} {', '.join(twins)}; give a model, a text, a measure or a recipe another name"
        )


def _refuse_future(name: str, path: str, to_come: Iterable[str]) -> None:
    # Products are in one folder: most inputs that none of them is are elsewhere.
    if path != "." and path.partition("/")[0] != layout.ARTIFACTS:
        return
    for product in sorted(to_come):
        if path == "." or f"{product}/".startswith(f"{path}/"):
            raise PlanError(
                f"{name}: its input {path!r} holds {product}, which this stage or a later one makes; give input files "
                "a folder of their own, such as data/"
            )
