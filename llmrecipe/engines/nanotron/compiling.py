"""Whether a run's layers are compiled by torch's compiler, and what that needs."""

import os
import shutil
import sysconfig
from pathlib import Path

from llmrecipe.errors import StageError
from llmrecipe.recipe.machine import Machine
from llmrecipe.recipe.networks.network import Network
from llmrecipe.sections import TrainSection

PAYS_FROM = 2**29
"""Tokens of a micro-batch times parameters from which compiled layers pay on a CPU: some 20 ms of a step on two cores.

Below it the half minute that the compiler takes is worth thousands of steps. The length of a run doesn't count, since a
longer one goes on where a shorter one has ended, to the same bits.
"""


def compiles(section: TrainSection, machine: Machine, device: str, name: str, *, network: Network, rows: int) -> bool:
    """Whether layers are compiled: the machine asks for it, or leaves it open and it pays; and the run allows it.

    Args:
        section: the run.
        machine: what it runs on.
        device: the machine's, settled.
        name: the stage's.
        network: what is trained.
        rows: of its embedding.

    Raises:
        StageError: the machine asks for it, and what the compiler needs is missing.
    """
    if obstacle(section) is not None:
        return False
    if machine.compile is None:
        tokens = section.parallelism.micro_batch_size * section.objective.sequence_length
        is_large = tokens * network.num_parameters(rows) >= PAYS_FROM
        # An encoder's layers gain nothing by it (`benchmarks/README.md` says on which processor).
        pays = device == "cpu" and is_large and not network.reads_both_sides
        return pays and _missing() is None
    missing = _missing() if machine.compile else None
    if missing is not None:
        raise StageError(f"{name}: machine.compile: {missing}, or use compile = False")
    return machine.compile


def obstacle(section: TrainSection) -> str | None:
    """Why layers of this run can't be compiled; None if they can."""
    dropout = section.training.dropout
    if dropout.residual or dropout.attention:
        return "training.dropout draws in each layer what depends on the numbers of the samples"
    if section.parallelism.tensor > 1:
        return "parallelism.tensor > 1 has ranks exchange values in each layer"
    return None


def _missing() -> str | None:
    """What torch's compiler lacks on this machine, and what would help; None if nothing."""
    compiler = os.environ.get("CXX", "g++")
    if shutil.which(compiler) is None:
        return (
            f"torch compiles by the C++ compiler {compiler!r}, which isn't there; install it, name another by the "
            "environment variable CXX"
        )
    if not Path(sysconfig.get_path("include"), "Python.h").exists():
        return "torch compiles against Python.h, which isn't there; install Python's headers (python3-dev on Debian)"
    return None
