"""The recipes that a command is given."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from llmrecipe import preflight
from llmrecipe.cli.render import show_error, show_warning
from llmrecipe.errors import LLMRecipeError, RecipeError
from llmrecipe.loader import load
from llmrecipe.recipe import checks
from llmrecipe.recipe.recipe import Recipe


def add_argument(parser: argparse.ArgumentParser, note: str = "") -> None:
    """Let the command take recipes, the quickstart by default; `note` ends the help."""
    parser.add_argument(
        "recipes",
        nargs="*",
        default=["quickstart"],
        metavar="RECIPE",
        help=f"file.py, file.py:function, or the name of a file in recipes/ (default: quickstart){note}",
    )


def load_all(references: Sequence[str]) -> list[Recipe] | None:
    """All the recipes; None if any is wrong, after everything that is wrong with each has been printed."""
    recipes = []
    for reference in references:
        try:
            recipes.append(_load_ready(reference))
        except LLMRecipeError as error:
            show_error(error)
    return recipes if len(recipes) == len(references) else None


def load_valid(reference: str) -> Recipe:
    """The recipe that `reference` names, with nothing wrong in it; the files that it names may be missing.

    Raises:
        LoadError: it can't be loaded.
        RecipeError: it can't work, with every reason.
    """
    recipe = load(reference)
    found = checks.violations(recipe)
    if found:
        raise RecipeError(found)
    return recipe


def _load_ready(reference: str) -> Recipe:
    """A valid recipe whose files are there, after its warnings have been printed.

    Raises:
        LoadError: it can't be loaded.
        RecipeError: it can't work, or not in this folder, with every reason.
    """
    recipe = load_valid(reference)
    found = preflight.violations(recipe, Path())
    for warning in preflight.warnings(recipe):
        show_warning(warning)
    if found:
        raise RecipeError(found)
    return recipe
