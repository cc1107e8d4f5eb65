"""`llmrecipe run`: recipes from their text to their results."""

import argparse
import os
import shlex
import subprocess
import sys
from pathlib import Path

from llmrecipe import layout
from llmrecipe.cli import plan, report
from llmrecipe.cli.listing import named_or_only
from llmrecipe.cli.recipes import add_argument
from llmrecipe.errors import StageError

GRACE_SECONDS = 15.0
"""How long DVC and a stage may take to end after Ctrl-C."""


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add `run` to the commands."""
    parser = subparsers.add_parser(
        "run",
        help="check and plan recipes, run the stages that they need, and report",
        description="Does `llmrecipe plan`, which checks first, `dvc repro` and `llmrecipe report`.",
    )
    add_argument(parser)
    parser.set_defaults(
        run=run, goes_on="the same command goes on with what is left, a training from its last checkpoint"
    )


def run(options: argparse.Namespace) -> int:
    """Run what is out of date of the recipes, if nothing is wrong with them, and print their reports.

    Raises:
        LoadError: no recipe was named, and there isn't just one.
        PlanError: they can't be planned.
        StageError: a stage has failed.
    """
    planned = plan.update(named_or_only(options.recipes), Path())
    if planned is None:
        return 1
    print(planned.written, flush=True)
    status = _reproduce(planned.targets)
    if status != 0:
        command = shlex.join(["llmrecipe", "run", *options.recipes])
        raise StageError(
            f"`dvc repro {' '.join(planned.targets)}` failed, for the reason above; once that is mended, `{command}` "
            "goes on, and does nothing again that is done"
        )
    for name, reference in planned.references.items():
        print(f"\n{report.of(reference)}\n\nall numbers: {layout.folder(name, 'report')}/metrics.json")
    return 0


def _reproduce(targets: list[str]) -> int:
    """The exit status of `dvc repro`.

    Raises:
        KeyboardInterrupt: Ctrl-C, once DVC has ended.
    """
    # Its stages are found where this program is, also if the environment isn't activated.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    child = [sys.executable, "-P", "-m", "llmrecipe.launch.child", str(os.getpid())]
    with subprocess.Popen([*child, "dvc", "repro", *targets], env={**os.environ, "PATH": path}) as dvc:
        try:
            return dvc.wait()
        except KeyboardInterrupt:
            _await_end(dvc)
            raise


def _await_end(dvc: subprocess.Popen) -> None:
    """Wait for a DVC that a terminal's Ctrl-C has reached as well; one that it hasn't, or that doesn't end, is ended.

    Another Ctrl-C ends it at once.
    """
    try:
        dvc.wait(GRACE_SECONDS)
    except (subprocess.TimeoutExpired, KeyboardInterrupt):
        # Its stage dies with it.
        dvc.kill()
