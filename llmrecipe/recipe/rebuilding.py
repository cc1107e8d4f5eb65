"""Recipes in which some words are others."""

from collections.abc import Callable
from typing import Any, TypeVar

import attrs

from llmrecipe.recipe.schema import Word

T = TypeVar("T", bound=Word)


def rebuilt(value: T, change: Callable[[Word], Word]) -> T:
    """`value` with `change` of each word in it in that word's place, the innermost first.

    A word in which nothing changes stays the same object, and one that occurs several times is changed once. Fields
    may break their rules, which aren't looked at.
    """
    made: dict[int, Any] = {}

    def of(item: Any) -> Any:
        if isinstance(item, tuple):
            items = tuple(map(of, item))
            return items if any(new is not old for new, old in zip(items, item, strict=True)) else item
        if not isinstance(item, Word):
            return item
        if id(item) not in made:
            fields = {field.alias: getattr(item, field.name) for field in attrs.fields(type(item))}
            changed = {name: new for name, old in fields.items() if (new := of(old)) is not old}
            made[id(item)] = change(attrs.evolve(item, **changed) if changed else item)  # type: ignore[misc]
        return made[id(item)]

    with attrs.validators.disabled():
        result: T = of(value)
    return result
