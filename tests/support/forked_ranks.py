"""Ranks forked from a process that has imported what they need.

To import it takes a rank seconds, and the ten steps of a test a fraction of one. All else is as in a stage: torch's
elastic launcher, a process for each rank, and the worker's `main` in it.
"""

import dataclasses
import importlib
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import forkserver, reduction
from pathlib import Path
from typing import Any

import pytest
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from llmrecipe.launch import torchrun
from llmrecipe.launch.process import die_with_parent


@contextmanager
def forked_ranks() -> Iterator[None]:
    """What starts ranks within this block forks them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torchrun, "elastic_launch", _launch)
        yield


class _Outputs:
    """Standard output and error as this process has them now, to be taken over by another: pytest exchanges them."""

    def __reduce__(self) -> tuple[Callable[..., None], tuple[Any, ...]]:
        return _take_over, (reduction.DupFd(1), reduction.DupFd(2))


def _take_over(*outputs: Any) -> None:
    for number, output in enumerate(outputs, 1):
        os.dup2(output.detach(), number)


def start_server() -> None:
    """Start the process that forks, unless it runs."""
    multiprocessing.set_forkserver_preload(["rank_preload"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
        forkserver.ensure_running()


def _launch(config: LaunchConfig, _executable: str) -> Callable[..., Any]:
    start_server()
    launch = elastic_launch(dataclasses.replace(config, start_method="forkserver"), _rank)
    return lambda *command: launch(_Outputs(), command[command.index("-m") + 1 :])


def _rank(_outputs: None, command: tuple[str, ...]) -> None:
    """`python -m llmrecipe.launch.child PARENT MODULE ARGUMENTS…`, but for the parent: here it is whoever forks."""
    _child, _parent, *sys.argv = command
    die_with_parent(os.getppid(), signal.SIGKILL)
    importlib.import_module(sys.argv[0]).main()
