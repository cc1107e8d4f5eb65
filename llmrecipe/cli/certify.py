"""`llmrecipe certify`: whether a recipe trains exactly, however it is interrupted and spread over ranks."""

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from llmrecipe.certify.comparison import Column
from llmrecipe.certify.proof import Finding, Proof
from llmrecipe.certify.tokens import find_or_make
from llmrecipe.cli.recipes import load_valid
from llmrecipe.cli.render import parameters
from llmrecipe.launch.lock import exclusive
from llmrecipe.plan.planner import plan
from llmrecipe.stages.runner import SCRATCH

FEWEST_STEPS = 8
"""Of which two lie between two checkpoints."""


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add `certify` to the commands."""
    parser = subparsers.add_parser(
        "certify", help="prove, with a shrunk recipe, that its training is exact: interrupted, and in another layout"
    )
    parser.add_argument(
        "recipe",
        nargs="?",
        default="quickstart",
        metavar="RECIPE",
        help="file.py, file.py:function, or the name of a file in recipes/ (default: quickstart)",
    )
    parser.add_argument("--steps", type=_steps, default=20, help="length of each training (default: %(default)s)")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Train the shrunk recipe three times and print how far the trainings are apart.

    Raises:
        LoadError: there is no such recipe.
        RecipeError: the recipe can't work.
        StageError: a training failed.
    """
    recipe = load_valid(options.recipe)
    home = SCRATCH / "certify"
    home.mkdir(parents=True, exist_ok=True)
    folder = home / recipe.name
    with exclusive(home / f"{recipe.name}.lock", f"certifying {recipe.name}"):
        shutil.rmtree(folder, ignore_errors=True)
        pretrain = next(stage for stage in plan([recipe]).stages if stage.kind == "pretrain")
        own = [Path(path) for path in pretrain.inputs.values()]
        tokens = find_or_make(own, recipe.objective, folder / "tokens")
        proof = Proof.of(recipe, options.steps, tokens)
        print(_summary(proof), flush=True)
        findings = proof.carry_out(folder, lambda line: print(line, file=sys.stderr, flush=True))
        _print_table(findings)
        failures = [f"{finding.what}: {_failure(column)}" for finding in findings for column in finding.failures]
        if failures:
            print(f"not certified: {recipe.name} is not exact; the trainings are kept in {folder}")
            for failure in failures:
                print(f"  {failure}")
            return 1
        shutil.rmtree(folder)
        print(f"certified: {recipe.name} trains exactly, interrupted and in another layout")
    return 0


def _steps(text: str) -> int:
    if not text.isdecimal() or int(text) < FEWEST_STEPS:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least {FEWEST_STEPS}")
    return int(text)


def _summary(proof: Proof) -> str:
    small, tokens = proof.recipe, proof.tokens
    training, length = small.training, small.objective.sequence_length
    facts = [
        f"{parameters(small.model.num_parameters(tokens.vocab_size))} parameters",
        f"{training.num_steps(length)} steps of {training.global_batch_size} × {length} tokens",
        f"device {small.runtime.device}",
    ]
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
