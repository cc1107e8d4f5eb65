"""`llmrecipe certify`: whether models are trained exactly, however they are interrupted and spread over ranks."""

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from llmrecipe import artifacts, layout, machines
from llmrecipe.certify.comparison import Column
from llmrecipe.certify.proof import Finding, Proof
from llmrecipe.certify.run import train_stage
from llmrecipe.certify.tokens import find_or_make
from llmrecipe.cli.listing import one
from llmrecipe.cli.recipes import load_valid
from llmrecipe.cli.render import parameters
from llmrecipe.cli.stage import chosen_machines
from llmrecipe.errors import PlanError, suggestion
from llmrecipe.foreign import foreign
from llmrecipe.launch.lock import exclusive
from llmrecipe.plan.stage import Stage
from llmrecipe.recipe.kinds import Model
from llmrecipe.recipe.machine import Machine
from llmrecipe.recipe.model import Trained
from llmrecipe.recipe.names import named_values
from llmrecipe.recipe.recipe import Recipe

FEWEST_STEPS = 8
"""Fewest steps of a run, of which two lie between two checkpoints."""


_TEXT = ("tokens", "mixture")
"""Beginnings of the roles of the text that a run reads."""


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add `certify` to the commands."""
    parser = subparsers.add_parser(
        "certify", help="prove, with shrunk models, that their training is exact: interrupted, and in another layout"
    )
    parser.add_argument(
        "recipe",
        nargs="?",
        metavar="RECIPE",
        help="file.py, file.py:function, or the name of a file in recipes/ (default: the only one)",
    )
    parser.add_argument("--model", metavar="NAME", help="only this model (default: all that the recipe trains)")
    parser.add_argument("--steps", type=_steps, default=20, help="length of each run (default: %(default)s)")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Train each shrunk model three times and print how far the runs are apart.

    Raises:
        LoadError: there is no such recipe.
        RecipeError: the recipe can't work.
        PlanError: the recipe trains no such model.
        StageError: a run failed.
    """
    recipe = load_valid(one(options.recipe), Path())
    certified = [_certify(recipe, model, options.steps) for model in _models(recipe, options.model)]
    return 0 if all(certified) else 1


def _models(recipe: Recipe, name: str | None) -> list[Trained]:
    """The models that the recipe trains, each after those that it starts from; or the one of this name."""
    # A value may come more than once.
    found = {value.name: value for _, value in named_values(recipe) if isinstance(value, Trained)}
    if name is None:
        return list(found.values())
    if name not in found:
        raise PlanError(f"--model {name}: {recipe.name} trains no model of that name{suggestion(name, list(found))}")
    return [found[name]]


def _certify(recipe: Recipe, model: Trained, steps: int) -> bool:
    home = artifacts.own_folder(layout.SCRATCH) / "certify"
    home.mkdir(exist_ok=True)
    folder = home / model.name
    with exclusive(home / f"{model.name}.lock", f"certifying {model.name}"):
        shutil.rmtree(folder, ignore_errors=True)
        stage = train_stage(recipe, model)
        own = {role: Path(path) for role, path in stage.inputs.items() if role.partition(".")[0] in _TEXT}
        shares = [part.weight for part in model.text.parts]
        tokens = find_or_make(own, shares, model.objective, folder / "tokens")
        proof = Proof.of(model, steps, tokens, _machine(stage))
        print(_summary(proof, model), flush=True)
        findings = proof.carry_out(folder, lambda line: print(foreign(line), file=sys.stderr, flush=True))
        if not proof.promises_bits:
            print("machine.deterministic = False promises no bits: an interruption may change what rounding changes")
        if library := findings[0].math_library:
            print(f"multiplied by {library}: the same bits on every processor of this kind that multiplies by it")
        _print_table(findings)
        failures = [f"{finding.what}: {_failure(column)}" for finding in findings for column in finding.failures]
        if failures:
            print(f"not certified: {model.name} is not exact; the runs are kept in {folder}")
            for failure in failures:
                print(f"  {failure}")
            return False
        shutil.rmtree(folder)
        print(f"certified: {model.name} trains exactly, interrupted and in another layout")
    return True


def _machine(stage: Stage) -> Machine:
    """The machine that the stage would run on now."""
    known = (chosen_machines(), machines.planned(layout.MACHINES_FILE))
    found = (each.find(stage.name, stage.owner) for each in known)
    return next(filter(None, found), Machine())


def _steps(text: str) -> int:
    if not text.isdecimal() or int(text) < FEWEST_STEPS:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least {FEWEST_STEPS}")
    return int(text)


def _summary(proof: Proof, model: Trained) -> str:
    small, tokens = proof.model, proof.tokens
    training, length = small.training, small.objective.sequence_length
    facts = [
        f"{parameters(small.network.num_parameters(tokens.vocab_size))} parameters",
        f"{training.num_steps(length)} steps of {training.global_batch_size} × {length} tokens",
        f"device {proof.machine.device}",
    ]
    if isinstance(model.start, Model):
        facts.append(f"from first weights of its network, not from {model.start.name}")
    return f"{small.name}, shrunk: {', '.join(facts)}\ntokens: {tokens.origin}"


def _print_table(findings: Sequence[Finding]) -> None:
    # Only here: the other commands answer without it.
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, collapse_padding=True)
    table.add_column("")
    for column in findings[0].columns:
        table.add_column(column.name, justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    for finding in findings:
        table.add_row(finding.what, *map(_cell, finding.columns), "fails" if finding.failures else "passes")
    # A log has no width of its own.
    Console(highlight=False, width=None if sys.stdout.isatty() else 100).print(table)


def _cell(column: Column) -> str:
    if column.difference == 0:
        return "identical"
    return "different" if column.difference == float("inf") else f"{column.difference:.1e}"


def _failure(column: Column) -> str:
    distance = "" if column.difference == float("inf") else " apart"
    rule = f"rounding explains {column.allowed:.0e}" if column.allowed else "must be identical"
    return f"{column.name} {_cell(column)}{distance}, {column.where}; {rule}"
