"""How and where a recipe runs. No stage reruns for it.

Most choices change no output byte. `device` changes the order in which numbers are added, and so their rounding, and a
`threads_per_rank` that is no power of two where work is cut in the middle of a row; and on a GPU
`precision="by_device"` trains in another number format than on a CPU.
"""

from typing import Literal

import attrs

from llmrecipe.recipe.schema import at_least, define


@define("runtime")
class Runtime:
    """Choices of the machine, not of the result."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where training, quantization and evaluation run; `auto` takes a GPU when PyTorch sees one."""

    workers: int = attrs.field(default=2, validator=at_least(1))
    """Processes that prepare and tokenize text."""

    threads_per_rank: int = attrs.field(default=1, validator=at_least(1))
    """CPU threads of a training rank; ranks × threads should not exceed the cores."""

    checkpoint_interval: int = attrs.field(default=100, validator=at_least(1))
    """Steps between two resumable states; an interruption costs at most this many."""

    keep_checkpoints: int = attrs.field(default=2, validator=at_least(1))
    """Resumable states kept; the older are deleted."""

    log_interval: int = attrs.field(default=10, validator=at_least(1))
    """Steps between two lines of progress in a log; a terminal is updated at every step."""

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """The least severe message shown."""
