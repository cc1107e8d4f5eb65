"""Values that differ from others in a few fields."""

from typing import Any, TypeVar

import attrs

from llmrecipe.errors import suggestion
from llmrecipe.recipe.schema import Word, shown

T = TypeVar("T", bound=Word)


def evolve(value: T, /, **changes: Any) -> T:
    """A copy of `value` with other values in some of its fields: `evolve(base, name="b", training__seed=8)`.

    Two underscores lead into a field's own fields. `evolve(base, training=evolve(base.training, seed=8))` says the
    same in a way that editors can follow.

    Raises:
        TypeError: a field that isn't there, or one that has no fields, or is changed twice.
        ValueError: a field can't have the value.
    """
    if not isinstance(value, Word):
        raise TypeError(f"evolve changes a word of the language, such as a recipe or a model, got {shown(value)}")
    fields = {field.alias or field.name: field.name for field in attrs.fields(type(value))}
    whole: dict[str, Any] = {}
    inside: dict[str, dict[str, Any]] = {}
    for path, change in changes.items():
        name, _, rest = path.partition("__")
        if name not in fields:
            raise TypeError(f"{type(value).__name__} has no field {name!r}{suggestion(name, list(fields))}")
        if rest:
            inside.setdefault(name, {})[rest] = change
        else:
            whole[name] = change
    for name, deeper in inside.items():
        if name in whole:
            raise TypeError(f"{type(value).__name__}.{name} is changed as a whole and in part; keep one")
        part = getattr(value, fields[name])
        if not isinstance(part, Word):
            first = next(iter(deeper))
            reason = f"{type(value).__name__}.{name} is {shown(part)}, which has no field {first!r}"
            raise TypeError(f"{reason}; give {name} as a whole")
        whole[name] = evolve(part, **deeper)
    copy: T = attrs.evolve(value, **whole)  # type: ignore[misc]
    return copy
