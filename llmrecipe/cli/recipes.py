"""The recipes that a command is given."""

import argparse
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

import attrs

from llmrecipe import dvcfiles, memory, origins, preflight, workplace
from llmrecipe.cli.render import show_error, show_warning
from llmrecipe.dvcfiles import Recorded
from llmrecipe.errors import LLMRecipeError, PlanError, RecipeError, Violation
from llmrecipe.loader import Loaded, find, load, shared_modules
from llmrecipe.machines import DEFAULT, Machines
from llmrecipe.plan.pipeline import Pipeline
from llmrecipe.pretrained.completed import completed, made_by
from llmrecipe.recipe import checks
from llmrecipe.recipe.machine import Machine
from llmrecipe.recipe.recipe import Recipe
from llmrecipe.sections import ReleaseSection
from llmrecipe.stages import ahead


@attrs.frozen
class Found:
    """A recipe that can work here."""

    recipe: Recipe
    """The recipe."""

    reference: str
    """Where it was found: `recipes/quickstart.py:quickstart`."""


def add_argument(parser: argparse.ArgumentParser, note: str = "") -> None:
    """Let the command take recipes; `note` ends the help."""
    parser.add_argument(
        "recipes",
        nargs="*",
        metavar="RECIPE",
        help=f"file.py, file.py:function, a folder, or the name of a file in recipes/ (default: the only one){note}",
    )


def find_all(references: Sequence[str], root: Path, machines: Mapping[str, Machine]) -> list[Found] | None:
    """All the recipes; None if any is wrong, after everything that is wrong with each has been printed.

    They share the modules that they import. Warnings are those for the machine that is the `default` of `machines`, and
    memory is that of each model's own.

    Raises:
        ProjectError: no recipe can work in this folder.
    """
    workplace.refuse_unfit(root)
    loaded, found = [], []
    with shared_modules():
        for reference in references:
            try:
                loaded.append(find(reference))
            except LLMRecipeError as error:
                show_error(error)
        planned = {*dvcfiles.outputs(root), *(folder for each in loaded for folder in made_by(each.value))}
        for each in loaded:
            try:
                found.append(_valid(each, root, planned, Machines(machines, "")))
            except LLMRecipeError as error:
                show_error(error)
    return found if len(found) == len(references) else None


def refuse_unmade(pipeline: Pipeline, root: Path) -> None:
    """Refuse a path among the artifacts of what nothing makes, though its folder is that of something planned.

    Raises:
        PlanError: there is one.
    """
    outputs = dvcfiles.outputs(root)
    for name, path in pipeline.unmade():
        if not origins.is_made(path, outputs) and not (root / path).exists():
            owner = path.split("/")[1:2]
            made = [product for stage in pipeline.stages if [stage.owner] == owner for product in stage.products]
            of_those = f"; {owner[0]} makes {', '.join(made)}" if made else ""
            raise PlanError(f"{name}: reads {path!r}, which is not there, and no stage makes it{of_those}")


def refuse_too_few_documents(
    pipeline: Pipeline, root: Path, references: Mapping[str, str], named: Collection[str]
) -> None:
    """Refuse a release that asks for more documents than are held out, where they are counted already.

    Args:
        pipeline: the stages of all recipes.
        root: the project.
        references: where each recipe is defined, by its name.
        named: the recipes that are asked for; of others it is a warning.

    Raises:
        PlanError: there is one.
    """
    _, sections = dvcfiles.entries(pipeline, root, references)
    found = ahead.too_few_documents(sections)
    refused = []
    for name, reason in found.items():
        if name.removesuffix(f"-{ReleaseSection.tag}") in named:
            refused.append(f"{name}: {reason}")
        else:
            show_warning(Violation(name, reason))
    if refused:
        raise PlanError("\n".join(refused))


def find_recorded(recorded: Iterable[Recorded], root: Path) -> tuple[list[Found], tuple[Recorded, ...]]:
    """Recipes that were planned before, and those that can't be planned again, after a warning that says why."""
    found, kept = [], []
    planned = dvcfiles.outputs(root)
    with shared_modules():
        for each in recorded:
            try:
                found.append(_valid(find(each.reference), root, planned, None))
            except LLMRecipeError as error:
                show_warning(Violation(each.reference, str(error)))
                kept.append(each)
    return found, tuple(kept)


def load_valid(reference: str, root: Path) -> Recipe:
    """The recipe that `reference` names, with nothing wrong in it; the text that it names may be missing.

    Raises:
        LoadError: it can't be loaded.
        RecipeError: it can't work, with every reason.
    """
    recipe, found = completed(load(reference), root, dvcfiles.outputs(root))
    found = [*found, *checks.violations(recipe)]
    if found:
        raise RecipeError(found)
    return recipe


def _valid(loaded: Loaded, root: Path, planned: Collection[str], machines: Machines | None) -> Found:
    """A recipe whose files are there, or `planned`; warnings for the machines, if there are some, have been printed.

    Raises:
        RecipeError: it can't work, or not in this folder, with every reason.
    """
    recipe, found = completed(loaded.value, root, planned)
    found = [*found, *checks.violations(recipe), *preflight.violations(recipe, root, planned)]
    too_large, warnings = memory.too_large(recipe, machines, root) if machines is not None else ([], [])
    found += too_large
    if found:
        raise RecipeError(found)
    if machines is not None:
        warnings += preflight.warnings(recipe, machines.find(DEFAULT, DEFAULT) or Machine())
    for warning in warnings:
        show_warning(warning)
    return Found(recipe, loaded.reference)
