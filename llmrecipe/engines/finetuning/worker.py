"""One rank of a distillation; `torchrun` starts as many as there are replicas."""

import fcntl
import logging
import os
import signal
import sys
import time
import warnings
from contextlib import nullcontext
from pathlib import Path

import torch
from torch.distributed.elastic.multiprocessing.errors import get_error_handler, record

from llmrecipe.engines.device import choose_kernels
from llmrecipe.engines.finetuning import states
from llmrecipe.engines.finetuning.hidden import Matching
from llmrecipe.engines.finetuning.job import Job
from llmrecipe.engines.finetuning.models import first_student, is_quantized, load_teacher, straight, zeros_of
from llmrecipe.engines.finetuning.states import StateFolder
from llmrecipe.engines.finetuning.trainer import DistillationTrainer
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
    lock = os.open(StateFolder(Path(job.state)).lock, os.O_RDWR | os.O_CREAT)
    fcntl.flock(lock, fcntl.LOCK_SH)
    _set_up_log(job)
    hide_progress_bars()
    keep_freed_memory()
    torch.set_num_threads(job.parallelism.threads_per_rank)
    warnings.simplefilter("ignore", FutureWarning)
    if job.machine.device == "cuda":
        choose_kernels(job.machine)
    try:
        train(job)
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


def train(job: Job) -> None:
    """Train as `job` says, as one of its ranks."""
    if job.parallelism.data == 1:
        # One rank exchanges nothing, and the Trainer needn't know that it has been launched.
        os.environ.pop("LOCAL_RANK", None)
        # By itself it would cut a batch in as many parts as there are GPUs.
        os.environ["CUDA_VISIBLE_DEVICES"] = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    student = first_student(job)
    zeros = zeros_of(student) if job.keep_zeros else []
    teacher = load_teacher(Path(job.teacher)) if job.predictions is None else None
    matching = None
    if job.section.hidden_states is not None and teacher is not None:
        matching = Matching.of(student, teacher, job.section.hidden_states.weight, job.training.seed)
    if job.resumed:
        states.load_student(StateFolder(Path(job.state)).checkpoint(job.resumed), student)
    trainer = DistillationTrainer(job, student, teacher, zeros, matching)
    with straight().straight_through() if is_quantized(student) else nullcontext():
        trainer.train()
    trainer.finish()


def _set_up_log(job: Job) -> None:
    ours = logging.getLogger("llmrecipe")
    ours.setLevel(job.machine.log_level.upper())
    ours.propagate = False
    handler = logging.StreamHandler()
    handler.setFormatter(ForeignFormatter(f"{job.name}: %(message)s"))
    ours.addHandler(handler)


if __name__ == "__main__":
    main()
