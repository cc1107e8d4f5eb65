"""Whether a run's layers are compiled by torch's compiler, and what that needs."""

import os
import shutil

from llmrecipe.errors import StageError
from llmrecipe.recipe.machine import Machine
from llmrecipe.sections import TrainSection


def compiles(section: TrainSection, machine: Machine, name: str) -> bool:
    """Whether layers are compiled: the machine asks for it, and the run allows it.

    Raises:
        StageError: they would be, and there is no C++ compiler.
    """
    if not machine.compile or obstacle(section) is not None:
        return False
    compiler = os.environ.get("CXX", "g++")
    if shutil.which(compiler) is None:
        raise StageError(
            f"{name}: machine.compile: torch compiles by the C++ compiler {compiler!r}, which isn't there; install it, "
            "name another by the environment variable CXX, or use compile = False"
        )
    return True


def obstacle(section: TrainSection) -> str | None:
    """Why layers of this run can't be compiled; None if they can."""
    dropout = section.training.dropout
    if dropout.residual or dropout.attention:
        return "training.dropout draws in each layer what depends on the numbers of the samples"
    if section.parallelism.tensor > 1:
        return "parallelism.tensor > 1 has ranks exchange values in each layer"
    return None
