"""How the classes of the recipe language are declared: frozen, keyword-only, checked against their annotations.

Validators raise at construction in ordinary Python. The loader builds a recipe with attrs' validators switched off and
then calls `field_violations`, so every wrong field is reported at once, with its path.

A *kind* is a class of which there are several sorts, such as `Cleaner`: an annotation that names a kind takes any word
that was defined as one, in this package or in a user's own module.
"""

import inspect
import os
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar, Union, dataclass_transform, get_args, get_origin

import attrs

from llmrecipe.errors import Violation
from llmrecipe.recipe.pages import Page

T = TypeVar("T", bound="Word")

UNWRITTEN = {"unwritten": True}
"""Metadata of a field that only the planner reads: no section of the parameters holds it."""


class Word:
    """Base of every class of the language."""

    __slots__ = ()

    tag: ClassVar[str]
    """Its short stable name in the parameters."""

    __attrs_attrs__: ClassVar[Any]


_members: dict[type[Word], dict[str, type[Word]]] = {}
"""By kind, its words by tag."""

_files: dict[type[Word], Path] = {}
"""Where each word is defined: the loader forgets modules that it has run."""


class FieldError(ValueError):
    """A field's value breaks a rule of that field alone."""

    def __init__(self, owner: object, name: str, reason: str) -> None:
        self.reason = reason
        super().__init__(f"{type(owner).__name__}.{name}: {reason}")


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(attrs.field,))
def kind(cls: type[T]) -> type[T]:
    """Declare a kind; what it declares as fields, each of its words has as well."""
    declared = _documented(attrs.frozen(cls, kw_only=True, field_transformer=_checked))
    _members[declared] = {}
    return declared


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(attrs.field,))
def define(tag: str) -> Callable[[type[T]], type[T]]:
    """Declare a word; `tag` is its short stable name, unique among the words of its kind.

    Raises:
        TypeError: a word of the same kind has this tag.
    """

    def wrap(cls: type[T]) -> type[T]:
        cls.tag = tag
        defined = _documented(attrs.frozen(cls, kw_only=True, field_transformer=_checked))
        for each in kinds_of(defined):
            known = _members[each].get(tag)
            if known is not None and _origin(known) != _origin(defined):
                raise TypeError(
                    f"{_origin(defined)}: the tag {tag!r} is that of {_origin(known)}, also a {each.__name__}; "
                    "give one of them another"
                )
            _members[each][tag] = defined
        return defined

    return wrap


@dataclass_transform(frozen_default=True, field_specifiers=(attrs.field,))
def quantity(tag: str) -> Callable[[type[T]], type[T]]:
    """Declare a word that wraps one number, given by position: `Tokens(4_000_000)`."""

    def wrap(cls: type[T]) -> type[T]:
        cls.tag = tag
        cls.__repr__ = _as_written  # type: ignore[method-assign, assignment]
        return _documented(attrs.frozen(cls, repr=False, field_transformer=_checked))

    return wrap


def _documented(cls: type[T]) -> type[T]:
    _files[cls] = Path(getattr(sys.modules.get(cls.__module__), "__file__", None) or f"<{cls.__module__}>")
    cls.__doc__ = Page(cls.__doc__, _files[cls])  # type: ignore[assignment]
    return cls


def _as_written(value: Word) -> str:
    numbers = [repr(getattr(value, field.name)) for field in attrs.fields(type(value))]
    return f"{type(value).__name__}({', '.join(numbers)})"


def file_of(cls: type[Word]) -> Path:
    """The file in which a word is defined."""
    return _files[cls]


def is_kind(annotation: object) -> bool:
    """Whether an annotation names a kind."""
    return isinstance(annotation, type) and annotation in _members


def members(kind: type[T]) -> dict[str, type[T]]:
    """The words of a kind by tag, in the order of their definition."""
    return dict(_members[kind])  # type: ignore[arg-type]


def kinds_of(cls: type[Word]) -> list[type[Word]]:
    """The kinds that a word is of."""
    return [base for base in cls.__mro__ if base in _members]


def own_violations(value: Word, path: str) -> Iterator[Violation]:
    """The fields of `value` itself that break their own rules; `path` is where `value` is."""
    for attribute in attrs.fields(type(value)):
        if attribute.validator is None:
            # Of a class that isn't declared as a word, which is refused where it is.
            continue
        try:
            attribute.validator(value, attribute, getattr(value, attribute.name))
        except FieldError as error:
            yield Violation(f"{path}.{attribute.alias}", error.reason)


def parts(value: object, path: str) -> Iterator[tuple[str, Word]]:
    """The words directly below `value`, each with its path."""
    if isinstance(value, tuple):
        for index, item in enumerate(value):
            if isinstance(item, Word):
                yield f"{path}[{index}]", item
            else:
                yield from parts(item, f"{path}[{index}]")
    elif isinstance(value, Word):
        for attribute in attrs.fields(type(value)):
            item, place = getattr(value, attribute.name), f"{path}.{attribute.alias}"
            if isinstance(item, Word):
                yield place, item
            else:
                yield from parts(item, place)


def field_violations(value: object, path: str) -> Iterator[Violation]:
    """Every field at and below `value` that breaks its own rules; `path` is where `value` is."""
    if isinstance(value, Word):
        yield from own_violations(value, path)
    for place, item in parts(value, path):
        yield from field_violations(item, place)


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
    if origin is dict:
        return f"a mapping to {describe(arguments[1])}"
    if is_kind(annotation):
        return " or ".join(member.__name__ for member in members(annotation).values()) or annotation.__name__
    return "a finite float" if annotation is float else annotation.__name__


def as_written(value: object) -> str:
    """A value as a user writes it, with the public names of fields."""
    return repr(value).replace("given_name=", "name=")


def shown(value: object) -> str:
    """A value that was given, with its type and at a readable length."""
    if isinstance(value, type):
        return f"the class {value.__name__}; did you forget its parentheses?"
    if inspect.isfunction(value):
        return f"the function {value.__name__}; did you forget its parentheses?"
    try:
        text = as_written(value)
    except ValueError:
        # Python writes no longer numbers (sys.set_int_max_str_digits).
        text = "a number of thousands of digits"
    if len(text) > 80:
        text = f"{text[:77]}…"
    return text if value is None else f"{text} ({_type_name(type(value))})"


def _type_name(cls: type) -> str:
    """With its module where another class could be meant: `fractions.Fraction`."""
    is_known = cls.__module__ == "builtins" or issubclass(cls, Word)
    return cls.__name__ if is_known else f"{cls.__module__}.{cls.__name__}"


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
    if origin is dict:
        return isinstance(value, dict) and all(matches(item, arguments[1]) for item in value.values())
    if annotation is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
    if annotation is int:
        return isinstance(value, int) and not isinstance(value, bool) and _is_machine_number(value)
    if annotation is str:
        return isinstance(value, str) and _is_unicode(value)
    return isinstance(value, annotation) and (not isinstance(value, Word) or _is_declared(type(value)))


def _is_declared(cls: type[Word]) -> bool:
    """Whether a class is a word itself, and not only derived from one."""
    return "tag" in vars(cls)


def _is_machine_number(value: int) -> bool:
    return -(2**63) <= value < 2**63


def _is_unicode(text: str) -> bool:
    """Whether UTF-8 can hold a text: Python's may have one half of a surrogate pair, which is no character."""
    return text.isascii() or not any("\ud800" <= character <= "\udfff" for character in text)


def misfit(value: object, annotation: Any) -> str:
    """What more there is to say of a value that doesn't match its annotation; empty if nothing."""
    if isinstance(value, tuple):
        inner = _items(annotation, len(value)) or (None,) * len(value)
        return next((said for item, of in zip(value, inner, strict=True) if (said := misfit(item, of))), "")
    if isinstance(value, str) and str in _options(annotation) and not _is_unicode(value):
        return ", which holds half of a surrogate pair, and so is no text that a file can hold"
    if type(value) is int and int in _options(annotation) and not _is_machine_number(value):
        return ", which has more than 64 bits"
    if isinstance(value, Word) and not _is_declared(type(value)):
        words = [base for base in type(value).__mro__ if issubclass(base, Word) and _is_declared(base)]
        instead = f", or use {words[0].__name__}" if words else ""
        declare = "declare it by `@define(tag)` of llmrecipe.extend in a module next to the recipes"
        return f", whose class is no word of the language, so no stage knows it: {declare}{instead}"
    return ""


def plain(value: Any, annotation: Any) -> Any:
    """`value` in the form in which it is kept, if it is another form of what `annotation` says; else as it is.

    NumPy's numbers and arrays, paths, enumerations of texts or numbers and other subclasses of Python's own types
    become plain ones, and an int in place of a float becomes one, so equal recipes are written alike.
    """
    if type(value).__module__ == "numpy":
        # A number, or lists of numbers for an array.
        value = value.tolist() if hasattr(value, "tolist") else value
        value = tuple(value) if isinstance(value, list) and _items(annotation, len(value)) is not None else value
    if isinstance(value, tuple):
        inner = _items(annotation, len(value))
        return tuple(value) if inner is None else tuple(map(plain, value, inner))
    options = _options(annotation)
    if str in options and isinstance(value, os.PathLike):
        path = os.fspath(value)
        return path if isinstance(path, str) else value
    if isinstance(value, bool):
        return value
    for plain_type in (str, int, float):
        if isinstance(value, plain_type) and type(value) is not plain_type:
            value = plain_type.__str__(value) if plain_type is str else plain_type(value)
    if float in options and int not in options and isinstance(value, int) and abs(value) <= sys.float_info.max:
        return float(value)
    return value


def _options(annotation: Any) -> tuple[Any, ...]:
    return get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else (annotation,)


def _items(annotation: Any, length: int) -> tuple[Any, ...] | None:
    """The annotations of the items of a tuple of this length; None if it can't be one."""
    for option in _options(annotation):
        if get_origin(option) is tuple:
            items = get_args(option)
            items = items[:1] * length if items[-1] is Ellipsis else items
            if len(items) == length:
                return items
    return None


def _checked(cls: type, fields: list[attrs.Attribute]) -> list[attrs.Attribute]:
    # Inherited ones have theirs already.
    return [field if getattr(field, "inherited", False) else _with_checks(field) for field in fields]


def _with_checks(field: attrs.Attribute) -> attrs.Attribute:
    annotation = field.type

    def convert(value: Any) -> Any:
        return plain(value, annotation)

    # From here attrs takes the type that a signature shows.
    convert.__annotations__ = {"value": annotation}
    return field.evolve(
        converter=convert,
        validator=_check_type if field.validator is None else attrs.validators.and_(_check_type, field.validator),
    )


def _check_type(owner: object, attribute: attrs.Attribute, value: Any) -> None:
    if not matches(value, attribute.type):
        reason = f"must be {describe(attribute.type)}, got {shown(value)}{misfit(value, attribute.type)}"
        if get_origin(attribute.type) is tuple and matches((value,), attribute.type):
            reason += "; a tuple of one needs a comma: (…,)"
        elif get_origin(attribute.type) is tuple and isinstance(value, list):
            reason += "; write (…) in place of […]"
        raise FieldError(owner, attribute.alias or attribute.name, reason)


def _origin(cls: type[Word]) -> str:
    """Where a class is from; a file that was read again defines the same one again."""
    return f"{file_of(cls)}:{cls.__qualname__}"
