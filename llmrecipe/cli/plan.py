"""`llmrecipe plan`: recipes into DVC stages."""

import argparse
import shlex
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import attrs

from llmrecipe import dvcfiles, layout
from llmrecipe.cli.listing import named_or_only
from llmrecipe.cli.recipes import find_all, find_recorded, refuse_too_few_documents, refuse_unmade
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


@attrs.frozen(kw_only=True)
class Planned:
    """Recipes that have been planned together."""

    references: dict[str, str]
    """Where each that was asked for was found, by name; all of them, if none was."""

    pipeline: Pipeline
    """The stages of all."""

    changed: list[Path]
    """The files that had to be changed."""

    @property
    def targets(self) -> list[str]:
        """The stages that the recipes end in."""
        ends = {stage.owner: stage.name for stage in self.pipeline.stages if stage.ends_recipe}
        return [ends[name] for name in self.references]

    @property
    def written(self) -> str:
        """What was written, in words."""
        return f"wrote {_listed(self.changed)}" if self.changed else "already planned, nothing to write"


def run(options: argparse.Namespace) -> int:
    """Plan all recipes together, or report everything that is wrong with them and write nothing."""
    root = Path()
    before = dvcfiles.recorded(root)
    for name in options.remove:
        if name not in before:
            raise PlanError(f"--remove {name}: no recipe of that name is planned{suggestion(name, list(before))}")
    given = [] if before and not options.recipes else named_or_only(options.recipes)
    taken_out = list(before) if options.only else options.remove
    planned = update(given, root, taken_out=taken_out, machines=_machines(options.machine, root))
    if planned is None:
        return 1
    _show(planned, given or list(planned.references.values()))
    return 0


def update(
    references: Sequence[str],
    root: Path,
    *,
    taken_out: Collection[str] = (),
    machines: Mapping[str, Machine] | None = None,
) -> Planned | None:
    """Plan recipes together with those that were planned before; None if one is wrong, after all that is was printed.

    Args:
        references: the recipes.
        root: the project.
        taken_out: names of recipes that were planned before, and are no longer to be.
        machines: the whole `machine` entry; None leaves it as it is.

    Raises:
        PlanError: they can't be planned together, or not in this folder.
    """
    before = dvcfiles.recorded(root)
    with shared_modules():
        named = find_all(references, root, machines or dvcfiles.planned_machines(root))
        if named is None:
            return None
        others = before.keys() - set(taken_out) - {found.recipe.name for found in named}
        found, kept = find_recorded([each for name, each in before.items() if name in others], root)
    for each in kept:
        show_warning(Violation(each.reference, f"the stages of {each.name!r} stay as they are written"))
    pipeline = plan([each.recipe for each in [*named, *found]])
    refuse_unmade(pipeline, root)
    names = {each.recipe.name: each.reference for each in [*named, *found]}
    refuse_too_few_documents(pipeline, root, names, [each.recipe.name for each in named])
    changed = dvcfiles.write(pipeline, root, references=names, kept=kept, machines_of=machines)
    asked = {each.recipe.name: names[each.recipe.name] for each in named} or dict(sorted(names.items()))
    return Planned(references=asked, pipeline=pipeline, changed=changed)


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


def _show(planned: Planned, given: Sequence[str]) -> None:
    width = max((len(stage.name) for stage in planned.pipeline.stages), default=0)
    for stage in planned.pipeline.stages:
        print(f"{stage.name:{width}}  {summary(type(stage.section))}")
    ways = f"`llmrecipe run {shlex.join(given)}`, or `dvc repro {' '.join(planned.targets)}`"
    print(f"{planned.written}; now run {ways}" if planned.targets else planned.written)


def _listed(changed: list[Path]) -> str:
    """`dvc.yaml, params.yaml and 5 files in params/`."""
    files = sorted(str(path) for path in changed if path.parent.name != layout.PARAMS)
    count = len(changed) - len(files)
    if count:
        files.append(f"{count} file{'s' if count > 1 else ''} in {layout.PARAMS}/")
    return f"{', '.join(files[:-1])} and {files[-1]}" if len(files) > 1 else files[0]
