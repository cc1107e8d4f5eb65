"""Whether a recipe was edited after it had been planned, and what differs."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from llmrecipe import dvcfiles
from llmrecipe.cli.render import show_warning
from llmrecipe.errors import Violation
from llmrecipe.plan.planner import plan
from llmrecipe.recipe.recipe import Recipe

_SHOWN = 12
_LONGEST = 60
_ABSENT = object()


def warn(recipe: Recipe, reference: str, root: Path) -> None:
    """Warn if the project's plan has the recipe otherwise: DVC knows the plan alone, and calls it up to date."""
    found = list(differences(recipe, root))
    if found:
        more = [f"and {len(found) - _SHOWN} more"] if len(found) > _SHOWN else []
        listed = "\n".join(f"  {each}" for each in [*found[:_SHOWN], *more])
        reason = f"the plan is older than the recipe; `llmrecipe plan {reference}` brings it up to date:\n{listed}"
        show_warning(Violation(recipe.name, reason))


def differences(recipe: Recipe, root: Path) -> Iterator[str]:
    """What planning the recipe would change of its stages in the project at `root`; nothing if it was never planned.

    Raises:
        PlanError: `dvc.yaml` can't be read, or the recipe can't be planned.
    """
    recorded = dvcfiles.recorded(root).get(recipe.name)
    if recorded is None:
        return
    stages, sections = dvcfiles.entries(plan([recipe]), root, {recipe.name: recorded.reference})
    written = recorded.sections(root)
    for name in [*stages, *recorded.stages]:
        if name not in recorded.stages:
            yield f"{name}: not planned"
        elif name not in stages:
            yield f"{name}: planned, and the recipe no longer asks for it"
    for name in [each for each in recorded.stages if each in stages]:
        if name not in written:
            yield f"{name}: its section is gone"
        elif written[name] != sections[name]:
            yield from _changes(name, written[name], sections[name])
        elif recorded.stages[name] != stages[name]:
            yield f"{name}: its entry in {dvcfiles.PIPELINE_FILE}"


def _changes(path: str, old: Any, new: Any) -> Iterator[str]:
    pairs = _pairs(old, new)
    if pairs is None:
        yield f"{path}: {_shown(old)} is planned, and the recipe says {_shown(new)}"
        return
    for key, before, after in pairs:
        if before != after:
            yield from _changes(f"{path}{key}", before, after)


def _pairs(old: Any, new: Any) -> list[tuple[str, Any, Any]] | None:
    """The parts of two values of one form, each with its place; None if they are compared whole."""
    if isinstance(old, Mapping) and isinstance(new, Mapping) and old.get("type") == new.get("type"):
        return [(f".{key}", old.get(key, _ABSENT), new.get(key, _ABSENT)) for key in {**old, **new}]
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        return [(f"[{index}]", *pair) for index, pair in enumerate(zip(old, new, strict=True))]
    return None


def _shown(value: Any) -> str:
    if value is _ABSENT:
        return "nothing"
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
