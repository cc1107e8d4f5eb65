"""`llmrecipe plan`: recipes into DVC stages."""

import argparse
import inspect
from pathlib import Path

from llmrecipe import dvcfiles
from llmrecipe.cli.recipes import add_argument, load_all
from llmrecipe.plan.planner import plan


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add `plan` to the commands."""
    parser = subparsers.add_parser("plan", help="write the stages of recipes to dvc.yaml and params.yaml")
    add_argument(parser, "; stages of recipes that aren't named are taken out")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Plan all recipes together, or report everything that is wrong with them and write nothing."""
    recipes = load_all(options.recipes)
    if recipes is None:
        return 1
    pipeline = plan(recipes)
    changed = dvcfiles.write(pipeline, Path())
    width = max(len(stage.name) for stage in pipeline.stages)
    for stage in pipeline.stages:
        print(f"{stage.name:{width}}  {inspect.getdoc(type(stage.section))}")
    written = f"wrote {' and '.join(map(str, changed))}" if changed else "already planned, nothing to write"
    print(f"{written}; now run `dvc repro`")
    return 0
