"""What a field of a word may hold besides its type: ranges, and tuples without gaps or duplicates."""

import struct
from collections.abc import Callable
from typing import Any

import attrs

from llmrecipe.recipe.schema import FieldError, Word

Validator = Callable[[Any, attrs.Attribute, Any], Any]

FLOAT32_MAX = 3.4e38
"""The most that a training step can compute with."""

FLOAT32_MIN = 1e-38
"""The least above 0: what is smaller loses its digits there, and soon is 0."""


def in_float32(value: float) -> float:
    """What a training step computes with in place of `value`, whose size is at most `FLOAT32_MAX`."""
    rounded: float = struct.unpack("f", struct.pack("f", value))[0]
    return rounded


def _refuse_vanishing(owner: object, name: str, value: float) -> None:
    if 0 < value < FLOAT32_MIN:
        raise FieldError(owner, name, f"must be 0 or at least {FLOAT32_MIN:g}, the least in float32, got {value!r}")


def as_in(cls: type[Word], name: str) -> Any:
    """A field that obeys the rules of the field `name` of another class, and has no default."""
    return attrs.field(validator=getattr(attrs.fields(cls), name).validator)


def at_least(minimum: float) -> Validator:
    """A validator: the value is `minimum` or more; a rule of the checks says how much more it may be."""

    def check(owner: object, attribute: attrs.Attribute, value: Any) -> None:
        if value < minimum:
            raise FieldError(owner, attribute.name, f"must be at least {minimum}, got {value!r}")

    return check


def greater_than(bound: float, at_most: float) -> Validator:
    """A validator: `bound < value <= at_most`, or None where the field may be."""

    def check(owner: object, attribute: attrs.Attribute, value: Any) -> None:
        if value <= bound:
            raise FieldError(owner, attribute.name, f"must be greater than {bound}, got {value!r}")
        if bound == 0 and value < FLOAT32_MIN:
            reason = f"must be at least {FLOAT32_MIN:g}, the least in float32, got {value!r}"
            raise FieldError(owner, attribute.name, reason)
        if value > at_most:
            raise FieldError(owner, attribute.name, f"must be at most {_number(at_most)}, got {value!r}")

    return attrs.validators.optional(check)


def below(bound: float) -> Validator:
    """A validator: `0 <= value < bound`."""

    def check(owner: object, attribute: attrs.Attribute, value: Any) -> None:
        if not 0 <= value < bound:
            raise FieldError(owner, attribute.name, f"must be at least 0 and less than {bound}, got {value!r}")
        if in_float32(value) >= bound:
            reason = f"must be less than {bound}, and is {bound} in float32, got {value!r}"
            raise FieldError(owner, attribute.name, f"{reason}; use at most {bound - 1e-7!r}")
        _refuse_vanishing(owner, attribute.name, value)

    return check


def all_greater_than(bound: float, at_most: float) -> Validator:
    """A validator: every item of a tuple is strictly more than `bound`, and at most `at_most`."""

    def check(owner: object, attribute: attrs.Attribute, value: tuple) -> None:
        for item in value:
            if not bound < item <= at_most:
                reason = f"must hold numbers greater than {bound}, up to {_number(at_most)}, got {item!r}"
                raise FieldError(owner, attribute.name, reason)

    return check


def between(low: float, high: float) -> Validator:
    """A validator: `low <= value <= high`, or None where the field may be."""

    def check(owner: object, attribute: attrs.Attribute, value: Any) -> None:
        if not low <= value <= high:
            bounds = f"between {_number(low)} and {_number(high)}"
            raise FieldError(owner, attribute.name, f"must be {bounds}, got {value!r}")

    return attrs.validators.optional(check)


def zero_or_up_to(at_most: float) -> Validator:
    """A validator: the value is 0, or what a training step can tell from it, and at most `at_most`."""
    in_range = between(0, at_most)

    def check(owner: object, attribute: attrs.Attribute, value: Any) -> None:
        in_range(owner, attribute, value)
        _refuse_vanishing(owner, attribute.name, value)

    return check


def not_empty(owner: object, attribute: attrs.Attribute, value: Any) -> None:
    """A validator: a text or tuple with something in it."""
    if not value:
        raise FieldError(owner, attribute.name, "must not be empty")


def no_duplicates(owner: object, attribute: attrs.Attribute, value: tuple) -> None:
    """A validator: no item is in the tuple twice."""
    for index, item in enumerate(value):
        if item not in value[:index] and value.count(item) > 1:
            raise FieldError(owner, attribute.name, f"names {item!r} {value.count(item)} times; keep one")


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"
