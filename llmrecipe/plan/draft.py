"""The stages so far: a value that is asked for is planned once, after what it is made from."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import attrs

from llmrecipe.errors import PlanError, suggestion
from llmrecipe.plan.stage import Stage
from llmrecipe.recipe.kinds import Model
from llmrecipe.recipe.names import differences, namespace
from llmrecipe.recipe.schema import Word, parts

Planner = TypeVar("Planner", bound=Callable[["Draft", Any], "Products"])

_planners: dict[type[Word], Callable[["Draft", Any], "Products"]] = {}


@attrs.frozen
class Products:
    """What a value is, once it is made: paths by name."""

    paths: Mapping[str, str]
    """`{"model": "artifacts/small-code/export/model"}`."""

    def product(self, name: str) -> str:
        """The path of one of them.

        Raises:
            PlanError: there is none of this name.
        """
        if name not in self.paths:
            raise PlanError(f"there is no product {name!r}{suggestion(name, list(self.paths))}")
        return self.paths[name]


def plans(cls: type[Word]) -> Callable[[Planner], Planner]:
    """Declare what plans the values of a class, and of those derived from it: a function of the draft and the value."""

    def register(planner: Planner) -> Planner:
        _planners[cls] = planner
        return planner

    return register


class Draft:
    """A pipeline in the making."""

    def __init__(self) -> None:
        self.stages: list[Stage] = []
        self._planning: list[Word] = []
        self._known: dict[tuple[type[Word], str], tuple[Word, Products]] = {}

    def need(self, value: Word) -> Products:
        """What a named value is; its stages are planned before those of whoever asks.

        Raises:
            PlanError: another value has its name, or nothing plans values of its class.
        """
        key = (namespace(value), value.name)  # type: ignore[attr-defined]
        if key in self._known:
            known, products = self._known[key]
            if known is not value and known != value:
                raise PlanError(f"two values are named {key[1]!r}, and differ: {'; '.join(differences(known, value))}")
            return products
        planner = next((_planners[cls] for cls in type(value).__mro__ if cls in _planners), None)
        if planner is None:
            name = type(value).__name__
            raise PlanError(f"nothing plans {name}; declare a function with `@plans({name})` in the module that has it")
        self._planning.append(value)
        products = planner(self, value)
        self._planning.pop()
        self._known[key] = value, products
        return products

    def stage(self, **fields: Any) -> Stage:
        """Add a stage, and return it."""
        models = [model for value in self._planning[-1:] for model in _models(value)]
        facts = dict.fromkeys(fact for model in models for fact in _facts(model))
        stage = Stage(facts=tuple(facts), **fields)
        self.stages.append(stage)
        return stage


def _facts(model: Model) -> Iterator[Word]:
    """A model's network and objective, if they are known yet."""
    for ask in (lambda: model.network, lambda: model.objective):
        try:
            yield ask()
        except ValueError:
            # Its words are of this package, as those of all models that were made elsewhere.
            continue


def _models(value: Word) -> tuple[Model, ...]:
    """The models whose cards the stages of a value read or write."""
    if isinstance(value, Model):
        return (value, *value.parents)
    return tuple(item for _, item in parts(value, "") if isinstance(item, Model))
