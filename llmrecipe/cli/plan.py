"""`llmrecipe plan`: recipes into DVC stages."""

import argparse
from collections.abc import Mapping
from pathlib import Path

from llmrecipe import dvcfiles, layout
from llmrecipe.cli.listing import named_or_only
from llmrecipe.cli.recipes import find_all, find_recorded
from llmrecipe.cli.render import show_warning
from llmrecipe.errors import PlanError, Violation, suggestion
from llmrecipe.loader import load_machine, shared_modules
from llmrecipe.machines import DEFAULT
from llmrecipe.plan.pipeline import Pipeline
from llmrecipe.plan.planner import plan
from llmrecipe.recipe.machine import Machine
from llmrecipe.recipe.pages import summary


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add `plan` to the commands."""
    parser = subparsers.add_parser(
        "plan",
        help="write the stages of recipes to dvc.yaml and params/",
        description="Adds or updates recipes, and keeps those that were planned before.",
    )
    parser.add_argument(
        "recipes",
        nargs="*",
        metavar="RECIPE",
        help="file.py, file.py:function, a folder, or the name of a file in recipes/ "
        "(default: those planned before, or the only one)",
    )
    parser.add_argument("--only", action="store_true", help="take out recipes that were planned before")
    parser.add_argument("--remove", action="append", default=[], metavar="NAME", help="take out a recipe; repeatable")
    parser.add_argument(
        "--machine",
        action="append",
        default=[],
        metavar="[WHAT=]MACHINE",
        help="run all stages, or those of a model, a text or a stage, on a machine of recipes/machines.py; repeatable",
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Plan all recipes together, or report everything that is wrong with them and write nothing."""
    root = Path()
    before = dvcfiles.recorded(root)
    for name in options.remove:
        if name not in before:
            raise PlanError(f"--remove {name}: no recipe of that name is planned{suggestion(name, list(before))}")
    machines = _machines(options.machine, root)
    given = [] if before and not options.recipes else named_or_only(options.recipes)
    with shared_modules():
        named = find_all(given, root, machines or dvcfiles.planned_machines(root))
        if named is None:
            return 1
        again = {} if options.only else {name: each for name, each in before.items() if name not in options.remove}
        again = {name: each for name, each in again.items() if name not in {found.recipe.name for found in named}}
        found, kept = find_recorded(again.values(), root)
    for each in kept:
        show_warning(Violation(each.reference, f"the stages of {each.name!r} stay as they are written"))
    pipeline = plan([each.recipe for each in [*named, *found]])
    references = {each.recipe.name: each.reference for each in [*named, *found]}
    changed = dvcfiles.write(pipeline, root, references=references, kept=kept, machines_of=machines)
    _show(pipeline, changed, [each.recipe.name for each in named] or sorted(references))
    return 0


def _machines(given: list[str], root: Path) -> Mapping[str, Machine] | None:
    """The `machine` entry that the options ask for; None to leave it as it is."""
    if not given:
        return None
    chosen: dict[str, Machine] = {}
    for text in given:
        what, separator, reference = text.rpartition("=")
        chosen[what if separator else DEFAULT] = load_machine(reference)
    # The default alone is all that is said; a model's or a stage's is added to what was said before.
    return chosen if DEFAULT in chosen else {**dvcfiles.planned_machines(root), **chosen}


def _show(pipeline: Pipeline, changed: list[Path], names: list[str]) -> None:
    width = max((len(stage.name) for stage in pipeline.stages), default=0)
    for stage in pipeline.stages:
        print(f"{stage.name:{width}}  {summary(type(stage.section))}")
    written = f"wrote {_listed(changed)}" if changed else "already planned, nothing to write"
    targets = " ".join(f"{name}-report" for name in names)
    print(f"{written}; now run `dvc repro {targets}`" if names else written)


def _listed(changed: list[Path]) -> str:
    """`dvc.yaml, params.yaml and 5 files in params/`."""
    files = sorted(str(path) for path in changed if path.parent.name != layout.PARAMS)
    count = len(changed) - len(files)
    if count:
        files.append(f"{count} file{'s' if count > 1 else ''} in {layout.PARAMS}/")
    return f"{', '.join(files[:-1])} and {files[-1]}" if len(files) > 1 else files[0]
