"""What a word means, with its fields: for `help`, notebooks and `llmrecipe help`."""

import ast
import inspect
import itertools
import re
import textwrap
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import attrs


class Page:
    """The docstring of a class that is declared as a word: its own, and what is said below each of its fields.

    Python keeps no docstrings of fields. They are read from the source when somebody asks for them, which takes longer
    than an import may.
    """

    def __init__(self, text: str | None, file: Path) -> None:
        """Of a class whose own docstring is `text`, and that is defined in `file`."""
        self._text = inspect.cleandoc(text or "")
        self._file = file

    def __get__(self, instance: object, owner: type) -> str:
        """The docstring of `owner`."""
        meanings = _meanings(owner)
        entries = [_entry(field, meanings.get(field.name, "")) for field in attrs.fields(owner)]
        return "\n\n".join([self._text, *(["Fields:\n" + "\n".join(entries)] if entries else [])])

    def meanings(self, cls: type) -> dict[str, str]:
        """What the source says below each field that `cls` itself declares, by the field's name."""
        try:
            tree = _tree(self._file)
        except (OSError, SyntaxError, ValueError):
            # Typed into a console, or edited since.
            return {}
        body = _body(tree.body, [name for name in cls.__qualname__.split(".") if name != "<locals>"])
        return {
            field.target.id: inspect.cleandoc(said.value.value)
            for field, said in itertools.pairwise(body)
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
            if isinstance(said, ast.Expr) and isinstance(said.value, ast.Constant) and isinstance(said.value.value, str)
        }


def summary(value: object) -> str:
    """What a class, a function or a module is, in the first lines of its docstring."""
    return (inspect.getdoc(value) or "").partition("\n\n")[0].replace("\n", " ")


def signature(field: attrs.Attribute) -> str:
    """A field as a signature has it: `beta1: float = 0.9`."""
    default = "" if field.default is attrs.NOTHING else f" = {_written(field.default)}"
    # Where a type is from, one finds by its name.
    annotation = re.sub(r"\b(?:\w+\.)+(?=\w)", "", inspect.formatannotation(field.type))
    return f"{field.alias}: {annotation}{default}"


def _written(value: Any) -> str:
    """A value without the fields that are at their defaults: `Parallelism(data=2)`."""
    fields = attrs.fields(type(value)) if attrs.has(type(value)) else ()
    if not any(field.kw_only for field in fields):
        return repr(value)
    given = [(field.alias, getattr(value, field.name), field.default) for field in fields]
    said = [f"{name}={_written(each)}" for name, each, default in given if each != default]
    return f"{type(value).__name__}({', '.join(said)})"


def _meanings(owner: type) -> dict[str, str]:
    found: dict[str, str] = {}
    for cls in reversed(owner.__mro__):
        page = vars(cls).get("__doc__")
        if isinstance(page, Page):
            found |= page.meanings(cls)
    return found


def _entry(field: attrs.Attribute, meaning: str) -> str:
    return textwrap.indent("\n".join([signature(field), *textwrap.indent(meaning, " " * 4).splitlines()]), " " * 4)


@cache
def _tree(file: Path) -> ast.Module:
    return ast.parse(file.read_bytes())


def _body(body: list[Any], names: list[str]) -> list[Any]:
    """The statements of the class that these names lead to, through classes and functions; none if they don't."""
    if not names:
        return body
    return next((_body(node.body, names[1:]) for node in _definitions(body) if node.name == names[0]), [])


def _definitions(body: list[Any]) -> Iterator[Any]:
    return (node for node in body if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef))
