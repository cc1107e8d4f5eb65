"""`llmrecipe check`: what is wrong with recipes, before anything is written."""

import argparse
from pathlib import Path

from llmrecipe import preflight
from llmrecipe.cli.render import parameters, show_error, show_warning
from llmrecipe.errors import LLMRecipeError, RecipeError
from llmrecipe.loader import load
from llmrecipe.plan.planner import plan
from llmrecipe.recipe import checks
from llmrecipe.recipe.recipe import Recipe
from llmrecipe.recipe.tokenizer import ByteLevelBPE


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add `check` to the commands."""
    parser = subparsers.add_parser("check", help="say what is wrong with recipes; write nothing")
    parser.add_argument(
        "recipes",
        nargs="*",
        default=["quickstart"],
        metavar="RECIPE",
        help="file.py, file.py:function, or the name of a file in recipes/ (default: quickstart)",
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Check every recipe, even after one that is wrong, and then all of them together."""
    recipes = []
    for reference in options.recipes:
        try:
            recipes.append(load_valid(reference))
        except LLMRecipeError as error:
            show_error(error)
    if len(recipes) < len(options.recipes):
        return 1
    plan(recipes)
    for recipe in recipes:
        print(f"{recipe.name}: fine. {_summary(recipe)}")
    return 0


def load_valid(reference: str) -> Recipe:
    """The recipe that `reference` names, after its warnings have been printed.

    Raises:
        LoadError: it can't be loaded.
        RecipeError: it can't work, with every reason.
    """
    recipe = load(reference)
    found = checks.violations(recipe)
    if not found:
        found = preflight.violations(recipe, Path())
        for warning in preflight.warnings(recipe):
            show_warning(warning)
    if found:
        raise RecipeError(found)
    return recipe


def _summary(recipe: Recipe) -> str:
    length, training = recipe.objective.sequence_length, recipe.training
    facts = [
        f"{training.num_steps(length):,} steps of {training.global_batch_size * length:,} tokens",
        f"{recipe.parallelism.world_size} {'rank' if recipe.parallelism.world_size == 1 else 'ranks'}",
    ]
    if isinstance(recipe.tokenizer, ByteLevelBPE):
        facts.insert(0, f"{parameters(recipe.model.num_parameters(recipe.tokenizer.vocab_size))} parameters")
    return ", ".join(facts)
