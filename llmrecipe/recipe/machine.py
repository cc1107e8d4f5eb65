"""Where stages run, and how: no stage reruns for another machine.

No choice but `device`, `compile` and, on GPUs, `deterministic` changes a byte of an output: they decide in which order
numbers are added, and so how they are rounded.
"""

from typing import Literal

import attrs

from llmrecipe.recipe.kinds import Place
from llmrecipe.recipe.place import Local
from llmrecipe.recipe.schema import Word, define
from llmrecipe.recipe.validators import between, greater_than


@define("machine")
class Machine(Word):
    """What runs the stages: choices that belong to no recipe. `recipes/machines.py` has functions that return one."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where models are trained, quantized and measured; `auto` takes a GPU when PyTorch sees one."""

    deterministic: bool = True
    """Whether GPUs train with kernels that give the same bits every time; False lets them be faster, and then a
    training that was interrupted differs from a straight one by rounding. CPUs always give the same bits."""

    compile: bool | None = None
    """Whether a network's layers are compiled as a training starts, which takes half a minute and makes each step
    faster; on a CPU it needs a C++ compiler and Python's headers. None: a decoder's on a CPU that has both, unless its
    steps are so small that it wouldn't pay. It rounds differently. Layers with dropout or shared by tensor-parallel
    ranks aren't compiled."""

    workers: int = attrs.field(default=2, validator=between(1, 10_000))
    """Shards of text that are worked on at once, each by a process; more than a corpus's `shards` don't help."""

    text_on: Place = Local()
    """Where text is prepared and tokenized."""

    memory_gb: float | None = attrs.field(default=None, validator=greater_than(0, 1e9))
    """Gigabytes (10^9 bytes) of each of its GPUs, or of all its memory where models are on the CPU; None for those of
    the machine that plans or runs. A model that can't be trained in them is refused before anything runs."""

    checkpoint_interval: int = attrs.field(default=100, validator=between(1, 10**9))
    """Steps between two resumable states; an interruption costs at most this many."""

    keep_checkpoints: int = attrs.field(default=2, validator=between(1, 1_000_000))
    """Resumable states kept; older ones are deleted."""

    log_interval: int = attrs.field(default=10, validator=between(1, 10**9))
    """Steps between two lines of progress in a log; a terminal is updated at every step."""

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """The least severe message shown."""

    events: tuple[Literal["tensorboard", "wandb"], ...] = ()
    """Which files of a training's numbers are written as it runs, beside its outputs in `train.events/`, for those who
    watch it; those for W&B are offline, for `wandb sync`. No output, and nothing for git."""
