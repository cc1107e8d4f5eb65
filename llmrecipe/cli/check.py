"""`llmrecipe check`: what is wrong with recipes, before anything is written."""

import argparse

from llmrecipe.cli.recipes import add_argument, load_all
from llmrecipe.cli.render import parameters
from llmrecipe.plan.planner import plan
from llmrecipe.recipe.recipe import Recipe
from llmrecipe.recipe.tokenizer import TrainedTokenizer


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add `check` to the commands."""
    parser = subparsers.add_parser("check", help="say what is wrong with recipes; write nothing")
    add_argument(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Check every recipe, even after one that is wrong, and then all of them together."""
    recipes = load_all(options.recipes)
    if recipes is None:
        return 1
    plan(recipes)
    for recipe in recipes:
        print(f"{recipe.name}: fine. {_summary(recipe)}")
    return 0


def _summary(recipe: Recipe) -> str:
    length, training = recipe.objective.sequence_length, recipe.training
    facts = [
        f"{training.num_steps(length):,} steps of {training.global_batch_size * length:,} tokens",
        f"{recipe.parallelism.world_size} {'rank' if recipe.parallelism.world_size == 1 else 'ranks'}",
    ]
    if isinstance(recipe.tokenizer, TrainedTokenizer):
        facts.insert(0, f"{parameters(recipe.model.num_parameters(recipe.tokenizer.vocab_size))} parameters")
    return ", ".join(facts)
