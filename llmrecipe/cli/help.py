"""`llmrecipe help`: what the words of the language mean."""

import argparse
import inspect
import operator
from collections.abc import Iterator
from typing import Any, get_args

import attrs

import llmrecipe
from llmrecipe import catalogue
from llmrecipe.errors import LoadError
from llmrecipe.recipe.pages import summary
from llmrecipe.recipe.schema import Word, is_kind, members


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add `help` to the commands."""
    parser = subparsers.add_parser("help", help="show what a word of the language means, with its fields")
    parser.add_argument(
        "word", metavar="WORD", nargs="?", help="AdamW, optimizer.AdamW, optimizer; default: all of them"
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print the page of a word, or the words of a room."""
    word = options.word
    if word is None:
        print(_listed(_all()))
    elif word in catalogue.rooms():
        module = catalogue.rooms()[word]
        print(f"{summary(module)}\n\n{_listed([f'{word}.{name}' for name in module.__all__])}")
    else:
        print("\n\n\n".join(map(_page, _written(word))))
    return 0


def _written(word: str) -> list[str]:
    """The words that `word` names, with their rooms."""
    known = catalogue.words()
    room, _, name = word.removeprefix("llmrecipe.").rpartition(".")
    found = [each for each in known.get(name, []) if not room or each == f"{room}.{name}"] or _methods(room, name)
    if not found:
        near = catalogue.near(name, room)
        meant = f"did you mean {near}? " if near else ""
        raise LoadError(f"{word}: no word of the language; {meant}`llmrecipe help` lists all")
    return found


def _methods(owner: str, name: str) -> list[str]:
    """What words named `owner`, with or without their room, do by that name: `Trained.at`."""
    owners = (each for each in _all() if each == owner or each.endswith(f".{owner}"))
    members = ((each, getattr(operator.attrgetter(each)(llmrecipe), name, None)) for each in owners)
    return [f"{each}.{name}" for each, member in members if inspect.isfunction(member) and not name.startswith("_")]


def _page(written: str) -> str:
    value = operator.attrgetter(written)(llmrecipe)
    signature = str(inspect.signature(value)) if inspect.isfunction(value) else ""
    lines = [f"{written}{signature}", "", inspect.getdoc(value) or ""]
    fitting = [f"    {name}: {words}" for name, words in _fitting(value)]
    return "\n".join([*lines, *(["", "What fits:", *fitting] if fitting else [])])


def _fitting(value: Any) -> Iterator[tuple[str, str]]:
    """By field that takes a word of a kind, those there are."""
    if not (isinstance(value, type) and issubclass(value, Word)):
        return
    names = {operator.attrgetter(each)(llmrecipe): each for each in _all() if each not in catalogue.rooms()}
    for field in attrs.fields(value):
        words = [names[member] for kind in _kinds(field.type) for member in members(kind).values() if member in names]
        if words:
            yield field.alias, ", ".join(words)


def _kinds(annotation: Any) -> Iterator[Any]:
    """The kinds in an annotation, such as those of `tuple[Cleaner, ...] | None`."""
    if is_kind(annotation):
        yield annotation
    for each in get_args(annotation):
        yield from _kinds(each)


def _all() -> list[str]:
    return [each for written in catalogue.words().values() for each in written]


def _listed(words: list[str]) -> str:
    rows = [(each, summary(operator.attrgetter(each)(llmrecipe))) for each in words if each not in catalogue.rooms()]
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:{width}}  {meaning}" for name, meaning in rows)
