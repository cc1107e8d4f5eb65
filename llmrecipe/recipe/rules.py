"""How rules that cross fields are declared: each with what it reads, so that none trips over a field that is wrong."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from llmrecipe.errors import Violation

Findings = Iterator[tuple[str, str]]
"""Paths below what is looked at, with what is wrong there."""

Rule = Callable[[Any], Findings]

LARGEST_SEED = 2**32 - 1
"""NumPy's limit."""


class Rules:
    """The rules of one kind of thing, in the order in which they are declared."""

    def __init__(self) -> None:
        self._rules: list[tuple[tuple[str, ...], Rule]] = []

    def add(self, *needs: str) -> Callable[[Rule], Rule]:
        """Declare a rule for all that has what it reads, which is at the paths `needs`."""

        def register(rule: Rule) -> Rule:
            self._rules.append((needs, rule))
            return rule

        return register

    def broken(self, whole: object, root: str, wrong: Sequence[str] = ()) -> Iterator[Violation]:
        """What is wrong with `whole`, whose own path is `root`, by those rules that read no field of the `wrong` ones.

        A section of `params.yaml` has parts of a recipe under their own names, so that rules take the one for the
        other; and a rule about a field that not every model or objective has is one for those that have it.
        """
        for needs, rule in self._rules:
            is_wrong = any(is_within(path, need) or is_within(need, path) for path in wrong for need in needs)
            if not is_wrong and all(_has(whole, need) for need in needs):
                yield from (Violation(f"{root}.{path}", reason) for path, reason in rule(whole))


def is_within(inner: str, outer: str) -> bool:
    """Whether the path `inner` is `outer` or leads to a part of it."""
    return inner == outer or inner.startswith((f"{outer}.", f"{outer}["))


def seed_findings(path: str, seed: int) -> Findings:
    """What is wrong with a seed."""
    if seed > LARGEST_SEED:
        yield path, f"{seed} is more than a 32-bit seed holds; use at most {LARGEST_SEED}"


def _has(whole: object, path: str) -> bool:
    for name in path.split("."):
        if not hasattr(whole, name):
            return False
        whole = getattr(whole, name)
    return True
