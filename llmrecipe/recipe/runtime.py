"""How and where a recipe runs. No stage reruns for it.

No choice but `device` changes a byte of an output. Another device adds numbers in another order, and so rounds them
otherwise; and on a GPU `precision="by_device"` trains in another number format than on a CPU.
"""

from typing import Literal

import attrs

from llmrecipe.recipe.execution import Execution
from llmrecipe.recipe.schema import at_least, define


@define("runtime")
class Runtime:
    """Choices of the machine, not of the result."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where training, quantization and evaluation run; `auto` takes a GPU when PyTorch sees one."""

    execution: Execution = Execution()
    """Where text is prepared and tokenized, and by how many processes."""

    checkpoint_interval: int = attrs.field(default=100, validator=at_least(1))
    """Steps between two resumable states; an interruption costs at most this many."""

    keep_checkpoints: int = attrs.field(default=2, validator=at_least(1))
    """Resumable states kept; the older are deleted."""

    log_interval: int = attrs.field(default=10, validator=at_least(1))
    """Steps between two lines of progress in a log; a terminal is updated at every step."""

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """The least severe message shown."""
