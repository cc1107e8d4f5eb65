"""One rank of a run; `torchrun` starts as many as the layout has."""

import fcntl
import logging
import os
import signal
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch.distributed.elastic.multiprocessing.errors import get_error_handler

from llmrecipe.engines.device import choose_kernels
from llmrecipe.engines.quiet import hide_progress_bars
from llmrecipe.engines.runs import jobs
from llmrecipe.engines.runs.jobs import J, Launch
from llmrecipe.engines.runs.state import StateFolder
from llmrecipe.errors import StageError
from llmrecipe.foreign import ForeignFormatter
from llmrecipe.launch.process import keep_freed_memory

_PATIENCE = 5.0
"""Seconds that a rank with an error of its own waits for the launcher."""


@contextmanager
def rank_of(cls: type[J]) -> Iterator[J]:
    """The job in the file that is given on the command line, in a process that is set up for it.

    It ends as a rank has to: the launcher hears what went wrong, and the next run waits until the process is gone.
    """
    # Ctrl-C reaches every process of a terminal, and the launcher answers for all.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    job = jobs.read(Path(sys.argv[1]), cls)
    # Held until this process is gone, however it ends: the next run waits for it before it writes.
    lock = os.open(StateFolder(Path(job.state)).lock, os.O_RDWR | os.O_CREAT)
    fcntl.flock(lock, fcntl.LOCK_SH)
    _set_up_log(job)
    hide_progress_bars()
    keep_freed_memory()
    torch.set_num_threads(job.parallelism.threads_per_rank)
    # Names of torch that will change one day, as its callers call them.
    warnings.simplefilter("ignore", FutureWarning)
    if job.machine.device == "cuda":
        choose_kernels(job.machine)
    try:
        yield job
    except StageError as error:
        # The launcher shows what it says; a traceback would bury it.
        get_error_handler().record_exception(error)
        sys.exit(1)
    except RuntimeError:
        # Usually a peer is gone: then the launcher, which knows the cause, ends this rank before it says a word.
        time.sleep(_PATIENCE)
        raise
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def _set_up_log(job: Launch) -> None:
    # By itself, since a library may set the root's level to its own.
    ours = logging.getLogger("llmrecipe")
    ours.setLevel(job.machine.log_level.upper())
    ours.propagate = False
    handler = logging.StreamHandler()
    handler.setFormatter(ForeignFormatter(f"{job.name}: %(message)s"))
    ours.addHandler(handler)
