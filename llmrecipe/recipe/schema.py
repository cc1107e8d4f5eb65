"""How the classes of the recipe language are declared: frozen, keyword-only, checked against their annotations.

Validators raise at construction in ordinary Python. The loader builds a recipe with attrs' validators
switched off and then calls `field_violations`, so that every wrong field is reported at once, with its path.
"""

import sys
import types
from collections.abc import Iterator
from typing import Any, Literal, TypeVar, Union, dataclass_transform, get_args, get_origin

import attrs

from llmrecipe.errors import Violation

T = TypeVar("T")


class FieldError(ValueError):
    """A field's value breaks a rule of that field alone."""

    def __init__(self, owner: object, name: str, reason: str) -> None:
        self.reason = reason
        super().__init__(f"{type(owner).__name__}.{name}: {reason}")


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(attrs.field,))
def define(tag: str, *, variant: bool = False):
    """Declare a class of the language; `tag` is its short stable name in `params.yaml`.

    A `variant` is one of several kinds of a thing even while it is the only one: its plain form always carries the
    tag, so that a second kind changes nothing for the first.
    """

    def wrap(cls: type[T]) -> type[T]:
        defined = attrs.frozen(cls, kw_only=True, field_transformer=_add_type_checks)
        defined.tag = tag
        defined.variant = variant
        return defined

    return wrap


@dataclass_transform(frozen_default=True, field_specifiers=(attrs.field,))
def quantity(tag: str):
    """Declare a class that wraps one number, given by position: `Tokens(4_000_000)`."""

    def wrap(cls: type[T]) -> type[T]:
        defined = attrs.frozen(cls, field_transformer=_add_type_checks)
        defined.tag = tag
        defined.variant = False
        return defined

    return wrap


def at_least(minimum: float):
    """A validator: the value is `minimum` or more."""

    def check(owner: object, attribute: attrs.Attribute, value: Any) -> None:
        if value < minimum:
            raise FieldError(owner, attribute.name, f"must be at least {minimum}, got {value!r}")

    return attrs.validators.optional(check)


def greater_than(bound: float):
    """A validator: the value is strictly more than `bound`."""

    def check(owner: object, attribute: attrs.Attribute, value: Any) -> None:
        if value <= bound:
            raise FieldError(owner, attribute.name, f"must be greater than {bound}, got {value!r}")

    return attrs.validators.optional(check)


def below(bound: float):
    """A validator: `0 <= value < bound`."""

    def check(owner: object, attribute: attrs.Attribute, value: Any) -> None:
        if not 0 <= value < bound:
            raise FieldError(owner, attribute.name, f"must be at least 0 and less than {bound}, got {value!r}")

    return check


def all_greater_than(bound: float):
    """A validator: every item of a tuple is strictly more than `bound`."""

    def check(owner: object, attribute: attrs.Attribute, value: tuple) -> None:
        for item in value:
            if item <= bound:
                raise FieldError(owner, attribute.name, f"must hold numbers greater than {bound}, got {item!r}")

    return check


def between(low: float, high: float):
    """A validator: `low <= value <= high`."""

    def check(owner: object, attribute: attrs.Attribute, value: Any) -> None:
        if not low <= value <= high:
            raise FieldError(owner, attribute.name, f"must be between {low} and {high}, got {value!r}")

    return check


def not_empty(owner: object, attribute: attrs.Attribute, value: Any) -> None:
    """A validator: a text or tuple with something in it."""
    if not value:
        raise FieldError(owner, attribute.name, "must not be empty")


def no_duplicates(owner: object, attribute: attrs.Attribute, value: tuple) -> None:
    """A validator: no item stands twice in the tuple."""
    for item in dict.fromkeys(value):
        if value.count(item) > 1:
            raise FieldError(owner, attribute.name, f"names {item!r} {value.count(item)} times; keep one")


def field_violations(value: object, path: str) -> Iterator[Violation]:
    """Every field below `value` that breaks its own rules; `path` is where `value` stands."""
    if isinstance(value, tuple):
        for index, item in enumerate(value):
            yield from field_violations(item, f"{path}[{index}]")
    elif attrs.has(type(value)):
        for attribute in attrs.fields(type(value)):
            item = getattr(value, attribute.name)
            try:
                attribute.validator(value, attribute, item)
            except FieldError as error:
                yield Violation(f"{path}.{attribute.name}", error.reason)
            else:
                yield from field_violations(item, f"{path}.{attribute.name}")


def describe(annotation: Any) -> str:
    """An annotation in words: `int`, `'a' or 'b'`, `AdamW or SGD`, `a tuple of str`."""
    if annotation is None or annotation is types.NoneType:
        return "None"
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return " or ".join(map(repr, arguments))
    if origin in (Union, types.UnionType):
        return " or ".join(map(describe, arguments))
    if origin is tuple:
        if arguments[-1] is Ellipsis:
            return f"a tuple of {describe(arguments[0])}"
        return f"a tuple of {', '.join(map(describe, arguments))}"
    return "a finite float" if annotation is float else annotation.__name__


def shown(value: object) -> str:
    """A value that was given, with its type and at a readable length."""
    if isinstance(value, type):
        return f"the class {value.__name__}; did you forget its parentheses?"
    text = repr(value)
    if len(text) > 80:
        text = f"{text[:77]}…"
    return text if value is None else f"{text} ({type(value).__name__})"


def matches(value: object, annotation: Any) -> bool:
    """Whether `value` is what `annotation` says; an int counts as a float, a bool never as a number."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if annotation is None or annotation is types.NoneType:
        return value is None
    if origin is Literal:
        return any(type(value) is type(option) and value == option for option in arguments)
    if origin in (Union, types.UnionType):
        return any(matches(value, option) for option in arguments)
    if origin is tuple:
        if not isinstance(value, tuple):
            return False
        if arguments[-1] is Ellipsis:
            return all(matches(item, arguments[0]) for item in value)
        return len(value) == len(arguments) and all(map(matches, value, arguments))
    if annotation is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
    if annotation is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, annotation)


def _add_type_checks(cls: type, fields: list[attrs.Attribute]) -> list[attrs.Attribute]:
    return [
        field.evolve(
            validator=_check_type if field.validator is None else attrs.validators.and_(_check_type, field.validator)
        )
        for field in fields
    ]


def _check_type(owner: object, attribute: attrs.Attribute, value: Any) -> None:
    if not matches(value, attribute.type):
        reason = f"must be {describe(attribute.type)}, got {shown(value)}"
        if get_origin(attribute.type) is tuple and matches((value,), attribute.type):
            reason += "; a tuple of one needs a comma: (…,)"
        elif get_origin(attribute.type) is tuple and isinstance(value, list):
            reason += "; write (…) in place of […]"
        raise FieldError(owner, attribute.name, reason)
