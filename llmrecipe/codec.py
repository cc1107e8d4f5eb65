"""Recipes and sections as plain data and back: what `params/` holds.

Writing is total: every field is there, defaults included, so a dropped option is a change like any other.
Reading is strict: nothing is coerced, guessed or ignored, and everything that is wrong is reported at once.
A word of a kind, and a member of a union of classes, carries its tag under `type`; other classes carry none. Fields
that only the planner reads (`schema.UNWRITTEN`) are left out.
"""

import types
from collections.abc import Callable, Iterator
from typing import Any, Literal, TypeGuard, TypeVar, Union, get_args, get_origin

import attrs
from cattrs import ClassValidationError, Converter, ForbiddenExtraKeysError, IterableValidationError
from cattrs.cols import homogenous_tuple_structure_factory
from cattrs.gen import make_dict_structure_fn, make_dict_unstructure_fn, override

from llmrecipe.errors import RecipeError, Violation, suggestion
from llmrecipe.recipe.schema import (
    UNWRITTEN,
    FieldError,
    Word,
    describe,
    is_kind,
    kinds_of,
    matches,
    members,
    misfit,
    shown,
)

T = TypeVar("T")

TAG = "type"
"""The key that holds the tag of a union's member."""


def unstructure(value: object) -> Any:
    """`value` as dictionaries, lists, texts and numbers, with every field."""
    return _converter.unstructure(value)


def structure(data: object, cls: type[T], path: str) -> T:
    """The instance of `cls` that `data` describes; `path` is where `data` is, for messages.

    A field that has a default may be left out.

    Raises:
        RecipeError: with every violation: unknown or missing keys, wrong types and values, unknown tags.
    """
    try:
        return _converter.structure(data, cls)
    except (_Refused, ClassValidationError) as error:
        raise RecipeError(_violations(error, path)) from None


class _Refused(ValueError):
    """Data that isn't what the annotation says; `inside` is the path of the culprit within the data."""

    def __init__(self, reason: str, inside: str = "") -> None:
        self.reason = reason
        self.inside = inside
        super().__init__(reason)


def _violations(error: Exception, path: str) -> Iterator[Violation]:
    if isinstance(error, ClassValidationError):
        noted, bare = error.group_exceptions()
        for inner, note in noted:
            inner_path = f"{path}.{note.name.removeprefix('given_')}"
            if isinstance(inner, KeyError):
                yield Violation(inner_path, f"is missing; must be {_expected(note.type)}")
            else:
                yield from _violations(inner, inner_path)
        for inner in bare:
            yield from _violations(inner, path)
    elif isinstance(error, IterableValidationError):
        for inner, item in error.group_exceptions()[0]:
            yield from _violations(inner, f"{path}[{item.index}]")
    elif isinstance(error, ForbiddenExtraKeysError):
        yield from _unknown_keys(error, path)
    elif isinstance(error, _Refused):
        yield Violation(f"{path}{error.inside}", error.reason)
    elif isinstance(error, FieldError):
        yield Violation(path, error.reason)
    else:
        raise error


def _unknown_keys(error: ForbiddenExtraKeysError, path: str) -> Iterator[Violation]:
    known = [_key(field) for field in _written(error.cl)]
    for key in sorted(map(str, error.extra_fields)):
        yield Violation(f"{path}.{key}", f"no such field{suggestion(key, known)}")


def _expected(annotation: Any) -> str:
    """The annotation in the words of plain data."""
    if _is_union(annotation) or is_kind(annotation):
        return " or ".join(map(_member, _options(annotation)))
    if attrs.has(annotation):
        return f"a mapping with the fields of {annotation.__name__}"
    if get_origin(annotation) is tuple:
        return f"a list, each {_expected(get_args(annotation)[0])}"
    if get_origin(annotation) is dict:
        return f"a mapping, each value {_expected(get_args(annotation)[1])}"
    return describe(annotation)


def _member(annotation: Any) -> str:
    if _is_word(annotation):
        return f"a mapping with `{TAG}: {annotation.tag}`"
    return _expected(annotation)


def _is_union(annotation: Any) -> bool:
    return get_origin(annotation) in (Union, types.UnionType)


def _options(annotation: Any) -> list[Any]:
    """The members of a union or a kind, kinds among them taken apart."""
    if is_kind(annotation):
        return list(members(annotation).values())
    return [option for member in get_args(annotation) for option in (_options(member) if is_kind(member) else [member])]


def _is_of_kind(annotation: Any) -> TypeGuard[type[Word]]:
    """Whether the annotation is a word that carries its tag wherever it is."""
    return isinstance(annotation, type) and issubclass(annotation, Word) and bool(kinds_of(annotation))


def _is_word(annotation: Any) -> TypeGuard[type[Word]]:
    return attrs.has(annotation)


def _is_dict(annotation: Any) -> bool:
    return get_origin(annotation) is dict


def _written(cls: type[Any]) -> list[attrs.Attribute]:
    return [field for field in _fields(cls) if field.metadata != UNWRITTEN]


def _fields(cls: type[Any]) -> tuple[attrs.Attribute, ...]:
    return attrs.fields(cls)


def _key(field: attrs.Attribute) -> str:
    """A field's name in plain data, which is the public one."""
    return field.alias or field.name


def _is_tuple(annotation: Any) -> bool:
    return get_origin(annotation) is tuple


def _is_float(annotation: Any) -> bool:
    return annotation is float or (_is_union(annotation) and float in get_args(annotation))


def _is_literal(annotation: Any) -> bool:
    return get_origin(annotation) is Literal


def _structure_plain(value: Any, annotation: Any) -> Any:
    if not matches(value, annotation):
        raise _Refused(f"must be {_expected(annotation)}, got {shown(value)}{_hint(value, annotation)}")
    return _as(value, annotation)


def _as(value: Any, annotation: Any) -> Any:
    # One form for equal values: 1 in a field of floats is 1.0, so equal recipes give equal bytes.
    return float(value) if isinstance(value, int) and _is_float(annotation) else value


def _hint(value: Any, annotation: Any) -> str:
    # YAML 1.1 takes a number for one only if it has a point: 1e-3 is a text.
    if not isinstance(value, str) or not _is_float(annotation):
        return misfit(value, annotation)
    try:
        text = repr(float(value))
    except ValueError:
        return ""
    return f"; write {text if '.' in text else text.replace('e', '.0e')}"


def _structure_class(cls: type[T], converter: Converter) -> Callable[[Any, Any], T]:
    blank = cls.__new__(cls)

    def checked(attribute: attrs.Attribute) -> Callable[[Any, Any], Any]:
        # Validators run field by field: the constructor would stop at the first, and never start when a field
        # next to it can't be read.
        inner, validate = converter.get_structure_hook(attribute.type), attribute.validator

        def structure_field(value: Any, annotation: Any) -> Any:
            result = inner(value, annotation)
            if validate is not None:
                validate(blank, attribute, result)
            return result

        return structure_field

    fields: dict[str, Any] = {
        field.name: override(struct_hook=checked(field), rename=_key(field)) for field in _written(cls)
    }
    fields |= {field.name: override(omit=True) for field in _fields(cls) if field.name not in fields}
    structure_mapping = make_dict_structure_fn(cls, converter, _cattrs_forbid_extra_keys=True, **fields)

    def structure_class(value: Any, _: Any) -> T:
        if not isinstance(value, dict):
            raise _Refused(f"must be {_expected(cls)}, got {shown(value)}")
        return structure_mapping(value, cls)

    return structure_class


def _structure_tuple(annotation: Any, converter: Converter) -> Callable[[Any, Any], tuple]:
    structure_items = homogenous_tuple_structure_factory(annotation, converter)

    def structure_tuple(value: Any, _: Any) -> tuple:
        if not isinstance(value, list):
            raise _Refused(f"must be {_expected(annotation)}, got {shown(value)}")
        return structure_items(value, annotation)

    return structure_tuple


def _structure_dict(annotation: Any, converter: Converter) -> Callable[[Any, Any], dict]:
    of_values = get_args(annotation)[1]
    structure_value = converter.get_structure_hook(of_values)

    def structure_dict(value: Any, _: Any) -> dict:
        if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
            raise _Refused(f"must be {_expected(annotation)}, got {shown(value)}")
        return {key: structure_value(item, of_values) for key, item in value.items()}

    return structure_dict


def _structure_union(union: Any, converter: Converter) -> Callable[[Any, Any], Any]:
    def structure_union(value: Any, _: Any) -> Any:
        # Asked for each time: a word of a kind may have been defined since.
        members = _options(union) if _is_union(union) or is_kind(union) else [union]
        classes = {member.tag: member for member in members if _is_word(member)}
        if isinstance(value, dict) and classes:
            tag = value.get(TAG)
            if TAG not in value:
                raise _Refused(f"is missing; one of {', '.join(classes)}", f".{TAG}")
            if not isinstance(tag, str) or tag not in classes:
                raise _Refused(f"no such type {shown(tag)}{suggestion(str(tag), list(classes))}", f".{TAG}")
            structure_class = _structure_class(classes[tag], converter)
            return structure_class({key: item for key, item in value.items() if key != TAG}, classes[tag])
        if not any(matches(value, member) for member in members if not attrs.has(member)):
            raise _Refused(f"must be {_expected(union)}, got {shown(value)}{_hint(value, union)}")
        return _as(value, union)

    return structure_union


def _unstructure_union(union: Any, converter: Converter) -> Callable[[Any], Any]:
    def unstructure_union(value: Any) -> Any:
        if attrs.has(type(value)):
            return {TAG: value.tag, **converter.unstructure(value)}
        return _as(value, union)

    return unstructure_union


def _unstructure_class(cls: type, converter: Converter) -> Callable[[Any], Any]:
    overridden: dict[str, Any] = {
        field.name: override(omit=True) if field.metadata == UNWRITTEN else override(rename=_key(field))
        for field in _fields(cls)
    }
    unstructure_class: Callable[[Any], Any] = make_dict_unstructure_fn(cls, converter, **overridden)
    if not _is_of_kind(cls):
        return unstructure_class
    return lambda value: {TAG: cls.tag, **unstructure_class(value)}


def _unstructure_kind(kind: type, converter: Converter) -> Callable[[Any], Any]:
    return lambda value: converter.unstructure(value, type(value))


def _unstructure_dict(annotation: Any, converter: Converter) -> Callable[[Any], dict]:
    unstructure_item = converter.get_unstructure_hook(get_args(annotation)[1])
    return lambda value: {key: unstructure_item(item) for key, item in value.items()}


def _unstructure_tuple(annotation: Any, converter: Converter) -> Callable[[Any], list]:
    unstructure_item = converter.get_unstructure_hook(get_args(annotation)[0])
    return lambda value: [unstructure_item(item) for item in value]


def _make_converter() -> Converter:
    converter = Converter(detailed_validation=True)
    converter.register_structure_hook_factory(attrs.has, _structure_class)
    converter.register_structure_hook_factory(_is_of_kind, _structure_union)
    converter.register_structure_hook_factory(_is_dict, _structure_dict)
    converter.register_structure_hook_factory(_is_tuple, _structure_tuple)
    converter.register_structure_hook_factory(_is_union, _structure_union)
    converter.register_structure_hook_func(_is_literal, _structure_plain)
    for plain in (bool, int, float, str):
        converter.register_structure_hook(plain, _structure_plain)
    converter.register_unstructure_hook_factory(attrs.has, _unstructure_class)
    converter.register_unstructure_hook_factory(is_kind, _unstructure_kind)
    converter.register_unstructure_hook_factory(_is_dict, _unstructure_dict)
    converter.register_unstructure_hook_factory(_is_tuple, _unstructure_tuple)
    converter.register_unstructure_hook_factory(_is_union, _unstructure_union)
    converter.register_unstructure_hook(float, float)
    return converter


_converter = _make_converter()
