"""`llmrecipe stage`: the work of one stage, as `dvc.yaml` calls it."""

import argparse
import os
from pathlib import Path

from llmrecipe import layout
from llmrecipe.loader import load_machine
from llmrecipe.machines import DEFAULT, Machines, planned

LOCAL_FILE = Path("machine.local.yaml")
"""A person's own `machine` entry, which goes before that of `params.yaml`; git ignores it."""


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add `stage` to the commands."""
    parser = subparsers.add_parser("stage", help="run one stage of a plan; `dvc repro` calls this")
    parser.add_argument("kind", metavar="KIND", help="train, quantize, …")
    parser.add_argument("--name", required=True, help="its section of the parameters")
    parser.add_argument("--output", required=True, type=Path, help="the folder it leaves")
    parser.add_argument("--params", default=layout.MACHINES_FILE, type=Path, help="default: %(default)s")
    parser.set_defaults(run=run, goes_on="`dvc repro` goes on with what is left, a training from its last checkpoint")


def run(options: argparse.Namespace) -> int:
    """Run the stage."""
    # Only here: the other commands answer without what stages import.
    from llmrecipe.stages.runner import run_stage

    run_stage(
        options.kind,
        name=options.name,
        output=options.output,
        params=options.params,
        chosen=chosen_machines(),
    )
    return 0


def chosen_machines() -> Machines:
    """The machines of this person or shell: of `LLMRECIPE_MACHINE`, else of `machine.local.yaml`, which git ignores."""
    name = os.environ.get("LLMRECIPE_MACHINE")
    if name:
        return Machines({DEFAULT: load_machine(name)}, "LLMRECIPE_MACHINE")
    return planned(LOCAL_FILE)
