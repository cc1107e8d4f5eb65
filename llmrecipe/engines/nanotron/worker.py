"""One rank of a training; `torchrun` starts as many as the layout has."""

import fcntl
import os
import signal
import sys
import warnings
from pathlib import Path

import torch
from torch.distributed.elastic.multiprocessing.errors import record

from llmrecipe.engines.nanotron import bootstrap
from llmrecipe.engines.nanotron.job import Job
from llmrecipe.launch.process import die_with_parent, keep_freed_memory


@record
def main() -> None:
    """Train as the job file given on the command line says."""
    die_with_parent(signal.SIGKILL)
    job = Job.read(Path(sys.argv[1]))
    # Held until this process is gone, however it ends: the next run waits for it before it writes.
    lock = os.open(Path(job.state) / "ranks.lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(lock, fcntl.LOCK_SH)
    keep_freed_memory()
    torch.set_num_threads(job.runtime.threads_per_rank)
    # Names of torch that will change one day, as nanotron calls them.
    warnings.simplefilter("ignore", FutureWarning)
    bootstrap.load(job.runtime.device)
    from llmrecipe.engines.nanotron.trainer import Trainer

    Trainer(job).run()
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
