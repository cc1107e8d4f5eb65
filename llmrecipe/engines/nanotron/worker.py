"""One rank of a run; `torchrun` starts as many as the layout has."""

import fcntl
import logging
import os
import signal
import sys
import time
import warnings
from pathlib import Path

import torch
from torch.distributed.elastic.multiprocessing.errors import get_error_handler, record

from llmrecipe.engines.device import choose_kernels
from llmrecipe.engines.nanotron.job import Job
from llmrecipe.engines.nanotron.port import bootstrap, linear
from llmrecipe.engines.quiet import hide_progress_bars
from llmrecipe.errors import StageError
from llmrecipe.foreign import ForeignFormatter
from llmrecipe.launch.process import keep_freed_memory

_PATIENCE = 5.0
"""Seconds that a rank with an error of its own waits for the launcher."""


@record
def main() -> None:
    """Train as the job file given on the command line says."""
    # Ctrl-C reaches every process of a terminal, and the launcher answers for all.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    job = Job.read(Path(sys.argv[1]))
    # Held until this process is gone, however it ends: the next run waits for it before it writes.
    lock = os.open(Path(job.state) / "ranks.lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(lock, fcntl.LOCK_SH)
    _set_up_log(job)
    hide_progress_bars()
    keep_freed_memory()
    torch.set_num_threads(job.section.parallelism.threads_per_rank)
    # Names of torch that will change one day, as nanotron calls them.
    warnings.simplefilter("ignore", FutureWarning)
    if job.machine.device == "cuda":
        choose_kernels(job.machine)
    if job.section.parallelism.async_tensor_parallel:
        # nanotron asks for it where communication overlaps, on a CPU as well; anything else would be slower with it.
        os.environ.setdefault("CUDA_DEVICE_MAX_CONNECTIONS", "1")
    bootstrap.load("cuda" if job.machine.device == "cuda" else "cpu")
    if job.math_library is not None:
        linear.use(job.math_library)
    from llmrecipe.engines.nanotron.trainer import Trainer

    try:
        Trainer(job).run()
    except StageError as error:
        # The launcher shows what it says; a traceback would bury it.
        get_error_handler().record_exception(error)
        sys.exit(1)
    except RuntimeError:
        # Usually a peer is gone: then the launcher, which knows the cause, ends this rank before it says a word.
        time.sleep(_PATIENCE)
        raise
    torch.distributed.destroy_process_group()


def _set_up_log(job: Job) -> None:
    # By itself, since nanotron sets the root's level to its own.
    ours = logging.getLogger("llmrecipe")
    ours.setLevel(job.machine.log_level.upper())
    ours.propagate = False
    handler = logging.StreamHandler()
    handler.setFormatter(ForeignFormatter(f"{job.name}: %(message)s"))
    ours.addHandler(handler)
    # What these log as errors they raise, too, and then it is said in our words. nanotron resets levels, not filters.
    for module in ("main", "weights"):
        logging.getLogger(f"nanotron.serialize.{module}").addFilter(lambda record: record.levelno < logging.ERROR)


if __name__ == "__main__":
    main()
