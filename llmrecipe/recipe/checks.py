"""What is wrong with a recipe: what the engines would only say once they run, said before anything does."""

import re
from typing import Any

from llmrecipe.errors import Violation
from llmrecipe.recipe import (
    corpus_checks,
    distilled_checks,
    fine_tuned_checks,
    measure_checks,
    model_checks,
    names,
    network_checks,
    objective_checks,
    overlap_checks,
    pruning_checks,
    release_checks,
    scheme_checks,
    task_checks,
    tokenizer_checks,
    training_checks,
)
from llmrecipe.recipe.hessians import Hessians
from llmrecipe.recipe.kinds import Model, Task, Text, Tokenizer
from llmrecipe.recipe.recipe import Recipe
from llmrecipe.recipe.rules import Fields, Findings, Rules
from llmrecipe.recipe.schema import Word, matches, parts
from llmrecipe.recipe.tokenized import TokenizedText

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
"""What DVC and every file system take. A section is `{name}-{kind}`; no kind holds a `-`, so no two collide."""

LONGEST_NAME = 150
"""File systems end at 255 bytes, and the name of a measure or a kind of stage comes behind it."""

_LONGEST_JOINED = 220
"""The same for what is called by two, such as a text in a tokenizer's tokens, behind whose name there is less."""

_NAMED = (Recipe, Model, Text, Tokenizer, Task)

rules = Rules()

_BOOKS = (
    rules,
    corpus_checks.rules,
    tokenizer_checks.rules,
    network_checks.rules,
    objective_checks.rules,
    training_checks.rules,
    model_checks.rules,
    scheme_checks.rules,
    pruning_checks.rules,
    distilled_checks.rules,
    task_checks.rules,
    fine_tuned_checks.rules,
    measure_checks.rules,
    release_checks.rules,
)


def violations(recipe: Recipe) -> list[Violation]:
    """Everything that is wrong with `recipe`: fields first, then the rules whose fields are right.

    A model, a text or a tokenizer that is used in several places is reported where it occurs first.
    """
    root, fields = path_of(recipe), Fields()
    words = list(names.words(recipe, root))
    wrong = [Violation(f"{path}.{name}", reason) for path, word in words for name, reason in fields.wrong(word).items()]
    found = [each for path, word in words for book in _BOOKS for each in book.broken(word, path, fields)]
    for room in (measure_checks, release_checks, overlap_checks):
        found += [Violation(f"{root}.{path}", reason) for path, reason in room.findings(recipe, fields)]
    return [*wrong, *found] if wrong else [*found, *names.clashes([recipe]), *_too_long_together(recipe)]


def _too_long_together(recipe: Recipe) -> list[Violation]:
    """What is called by two values, of which each has a name for files, and not both together."""
    found: dict[str, Violation] = {}
    for path, value in names.named_values(recipe):
        match value:
            case TokenizedText():
                names_of_both, what = (value.text.name, value.tokenizer.name), "its tokenizer"
            case Hessians():
                names_of_both, what = (value.text.name, value.model.name), "the model that reads it,"
            case _:
                continue
        if len(value.name) > _LONGEST_JOINED and max(map(len, names_of_both)) <= LONGEST_NAME:
            rest = len(value.name) - sum(map(len, names_of_both))
            reason = (
                f"{names_of_both[0][:40]!r}… and {what} {names_of_both[1][:40]!r}… have names of "
                f"{' and '.join(str(len(name)) for name in names_of_both)} characters, and folders and files are "
                f"called by both; use at most {_LONGEST_JOINED - rest} together"
            )
            found.setdefault(value.name, Violation(path, reason))
    return list(found.values())


def section_violations(section: Word, path: str) -> list[Violation]:
    """What is wrong with a section of the parameters whose fields are right, by the rules that need nothing else."""
    fields = Fields()
    words = list(names.words(section, path))
    return [each for place, word in words for book in _BOOKS for each in book.broken(word, place, fields)]


def path_of(recipe: Recipe) -> str:
    """What paths into a recipe begin with: its name, if it has one that can be shown."""
    return recipe.name if matches(recipe.name, str) and recipe.name else "recipe"


@rules.add("name", of=_NAMED)
def _name(named: Any) -> Findings:
    given = getattr(named, "given_name", named.name)
    if given is not None and not NAME.fullmatch(given):
        better = re.sub(r"[^A-Za-z0-9_-]+", "-", given).strip("-_")
        proposal = f"; use {better!r}" if better else ""
        yield (
            "name",
            f"{given!r} must start with a letter or digit, followed by letters, digits, `_` and `-`{proposal}",
        )
    elif isinstance(named.name, str) and len(named.name) > LONGEST_NAME:
        yield (
            "name",
            f"{named.name[:40]!r}… has {len(named.name)} characters, and folders and files are called so, with more "
            f"behind it; use at most {LONGEST_NAME}",
        )
    elif given is None and isinstance(named.name, str) and not NAME.fullmatch(named.name):
        made_from = [item for _, item in parts(named, "") if isinstance(item, _NAMED)]
        if all(isinstance(item.name, str) and NAME.fullmatch(item.name) for item in made_from):
            yield "name", f"{named.name!r} is made from its parts, and no name for files; give it one of its own"
