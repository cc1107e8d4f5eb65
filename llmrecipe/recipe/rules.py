"""How rules that cross fields are declared: each with what it reads, so none trips over a wrong field."""

import re
from collections.abc import Callable, Iterator
from typing import Any

import attrs

from llmrecipe.errors import Violation
from llmrecipe.recipe.kinds import Objective, Text, Tokenizer
from llmrecipe.recipe.networks.network import Network
from llmrecipe.recipe.schema import Word, own_violations, parts

Findings = Iterator[tuple[str, str]]
"""Paths below what is looked at, with what is wrong there."""

Rule = Callable[[Any], Findings]


_FACTS = {
    "network": Network,
    "objective": Objective,
    "vocabulary": Tokenizer,
    "origin": Tokenizer,
    "training_text": Text,
}
"""What words derive from their fields, and what that is where those fields are right."""


class Fields:
    """Which fields of words break their own rules; every word is looked at once."""

    def __init__(self) -> None:
        # With the words themselves: the id of one that is gone may be another's.
        self._own: dict[int, tuple[Word, dict[str, str]]] = {}
        self._is_right: dict[int, bool] = {}

    def wrong(self, word: Word) -> dict[str, str]:
        """The own fields of a word that break their rules, by their public names, with the reasons."""
        if id(word) not in self._own:
            found = {violation.path[1:]: violation.reason for violation in own_violations(word, "")}
            self._own[id(word)] = (word, found)
        return self._own[id(word)][1]

    def is_right(self, value: object) -> bool:
        """Whether every field of `value`, and below it, obeys its own rules."""
        if not isinstance(value, Word):
            return all(self.is_right(item) for _, item in parts(value, ""))
        if id(value) not in self._is_right:
            below = all(self.is_right(item) for _, item in parts(value, ""))
            self._is_right[id(value)] = not self.wrong(value) and below
        return self._is_right[id(value)]

    def has(self, word: Word, path: str) -> bool:
        """Whether `word` has what `path` leads to, and it and all below it is right.

        A name on the path may be a fact that a word derives from its fields, such as a model's `network`, if that is a
        word again.
        """
        value: object = word
        for name in path.split("."):
            if not isinstance(value, Word) or name in self.wrong(value):
                return False
            is_field = name in _names(type(value))
            try:
                value = getattr(value, name)
            except (AttributeError, TypeError, ValueError):
                # Not there, or derived from a field that is wrong.
                return False
            # A section has the field `network`, and None in it where its input says what that is.
            if (name in _FACTS or not is_field) and not isinstance(value, _FACTS.get(name, Word)):
                return False
        return self.is_right(value)


class Rules:
    """Rules that cross fields, in the order in which they are declared.

    A rule is for every word that has what it reads. Sections of the parameters use the recipe's field names, so rules
    serve them as well, and words of a user's own.
    """

    def __init__(self) -> None:
        self._rules: list[tuple[type | tuple[type, ...], tuple[str, ...], Rule]] = []
        self._by_class: dict[type[Word], list[tuple[tuple[str, ...], Rule]]] = {}

    def add(self, *needs: str, of: type | tuple[type, ...] = Word) -> Callable[[Rule], Rule]:
        """Declare a rule for every word, or those `of` a class, that has what it reads, at the paths `needs`."""

        def register(rule: Rule) -> Rule:
            self._rules.append((of, needs, rule))
            return rule

        return register

    def broken(self, word: Word, path: str, fields: Fields) -> Iterator[Violation]:
        """What is wrong with `word`, which is at `path`, by those rules that read no field which is wrong itself."""
        for needs, rule in self._of(type(word)):
            if all(fields.has(word, need) for need in needs):
                for place, reason in rule(word):
                    yield Violation(f"{path}.{_written(word, place)}", reason)

    def _of(self, cls: type[Word]) -> list[tuple[tuple[str, ...], Rule]]:
        if cls not in self._by_class:
            self._by_class[cls] = [
                (needs, rule)
                for of, needs, rule in self._rules
                if issubclass(cls, of) and all(hasattr(cls, need.partition(".")[0]) for need in needs)
            ]
        return self._by_class[cls]


def place_of(word: Word, part: Word) -> str | None:
    """The path of `part` below `word`, the nearest first; None if it isn't there."""
    level = [("", word)]
    while level:
        level = [(place, item) for above, owner in level for place, item in parts(owner, above)]
        for place, item in level:
            if item is part:
                return place.removeprefix(".")
    return None


def _written(word: Word, place: str) -> str:
    """`place` as a path of fields: one that begins with a derived fact (`network`) leads to where that is written."""
    found = re.match(r"\w+", place)
    if found is None or found[0] in _names(type(word)):
        return place
    fact = getattr(word, found[0])
    return f"{place_of(word, fact) or found[0]}{place[found.end() :]}"


def _names(cls: type[Word]) -> set[str]:
    return {field.alias or field.name for field in attrs.fields(cls)}
