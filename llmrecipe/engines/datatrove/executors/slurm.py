"""Runs the tasks of a datatrove pipeline as the jobs of a Slurm cluster."""

import getpass
import hashlib
import math
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import cast

from datatrove.executor.slurm import SlurmPipelineExecutor
from datatrove.pipeline.base import PipelineStep

from llmrecipe.engines.datatrove.executors.tasks import RemoteExecutor, cleaning_up_on_termination, quiet
from llmrecipe.engines.datatrove.folders import LocalFolder
from llmrecipe.errors import StageError
from llmrecipe.recipe.machine import Machine
from llmrecipe.recipe.place import Slurm

MAX_ARRAY_SIZE = 1000
"""Most jobs of one array; Slurm's own `MaxArraySize` is 1001."""

LOOK_SECONDS = 1.0
"""How often the finished tasks are counted."""

ASK_SECONDS = 30.0
"""How often Slurm is asked, whose `squeue` isn't to be called more often."""

GRACE_SECONDS = 60.0
"""A job that is gone may have finished its task this long before its files are seen over the network."""


class SlurmExecutor(RemoteExecutor, SlurmPipelineExecutor):
    """datatrove's executor, which submits a job array, and then waits for it.

    The jobs bear a name that depends on the folder of their logs alone, so the jobs of a stage that was killed are
    found, and ended, by the next.
    """

    def __init__(self, what: str, steps: Sequence[PipelineStep], *, tasks: int, machine: Machine, logs: Path) -> None:
        on = cast(Slurm, machine.text_on)
        self.what = what
        self.remedy = (
            "Raise `memory_per_cpu_gb` or `time_limit` of the machine's `text_on`, or `corpus.shards` for less of each"
        )
        self.verbose = machine.log_level == "debug"
        super().__init__(
            list(steps),
            tasks=tasks,
            time=on.time_limit,
            partition=on.partition,
            cpus_per_task=on.cpus_per_task,
            mem_per_cpu_gb=on.memory_per_cpu_gb,
            workers=machine.workers,
            job_name=f"llmrecipe-{hashlib.sha256(str(logs.absolute()).encode()).hexdigest()[:16]}",
            qos=on.qos,
            env_command=_environment(),
            sbatch_args={"account": on.account} if on.account else {},
            logging_dir=LocalFolder(logs),
            tasks_per_job=math.ceil(tasks / MAX_ARRAY_SIZE),
        )

    def launch_merge_stats(self) -> None:
        """Nothing: it would be another job."""

    def finish(self) -> None:
        """Have every task run that isn't finished, and wait for it.

        Raises:
            StageError: Slurm isn't there or refuses, a task failed, or its job ended without finishing it.
        """
        ranks = self.unfinished()
        if not ranks:
            return
        if shutil.which("sbatch") is None:
            raise StageError(
                "machine.text_on: Slurm, and there is no `sbatch` on this machine; run `dvc repro` where jobs are "
                "submitted, on a login node of the cluster"
            )
        with cleaning_up_on_termination():
            try:
                self._end_jobs()
                self.forget_failures()
                self._submit()
                self._wait(ranks)
            finally:
                self._cancel()

    def _submit(self) -> None:
        try:
            with quiet(self.verbose):
                self.launch_job()
        except subprocess.CalledProcessError as error:
            raise StageError(
                f"{self.what}: `sbatch` refused the job with status {error.returncode} and the message above; its "
                f"script is {self.logging_dir.resolve_paths('launch_script.slurm')}"
            ) from None

    def _wait(self, ranks: list[int]) -> None:
        jobs = [ranks[start : start + self.tasks_per_job] for start in range(0, len(ranks), self.tasks_per_job)]
        reported, asked, lost_since = len(ranks), -math.inf, None
        queued: set[int] | None = None
        while True:
            # Before the files: who leaves the queue in between has left its files.
            if time.monotonic() >= asked + ASK_SECONDS:
                queued, asked = self._queued(), time.monotonic()
            left = set(self.get_incomplete_ranks())
            if len(left) < reported:
                reported = len(left)
                self.report()
            if not left:
                return
            self.refuse_failures()
            lost = [
                (index, rank)
                for index, job in enumerate(jobs)
                for rank in job
                if queued is not None and index not in queued and rank in left
            ]
            if not lost:
                lost_since = None
            elif lost_since is None:
                lost_since = time.monotonic()
            elif time.monotonic() >= lost_since + GRACE_SECONDS:
                index, rank = lost[0]
                raise self.lost(rank, self._log_of(index))
            time.sleep(LOOK_SECONDS)

    def _log_of(self, index: int) -> str:
        file = Path(self.slurm_logs_folder) / f"{self.job_id}_{index}.out"
        return f"its log is {file}" if file.exists() else f"job {self.job_id}_{index} had not begun"

    def _queued(self) -> set[int] | None:
        """The places in the job array of the jobs that wait or run; None if Slurm can't say at the moment."""
        command = ["squeue", "--user", getpass.getuser(), "--name", self.job_name, "--array", "--noheader"]
        answer = subprocess.run([*command, "--format", "%i"], capture_output=True, text=True)
        if answer.returncode != 0:
            return None
        return {int(job.rpartition("_")[2]) for job in answer.stdout.split()}

    def _cancel(self) -> None:
        subprocess.run(["scancel", "--user", getpass.getuser(), "--name", self.job_name], capture_output=True)

    def _end_jobs(self) -> None:
        """End what an earlier run has left: its jobs would write the same files."""
        self._cancel()
        while self._queued() != set():
            time.sleep(LOOK_SECONDS)


def _environment() -> str:
    """The shell's commands for the Python of this process, activated or not, and for modules of the user's own."""
    path, modules = str(Path(sys.executable).parent), os.environ.get("PYTHONPATH", "")
    return f"export PATH={shlex.quote(path)}:$PATH PYTHONPATH={shlex.quote(modules)} PYTHONSAFEPATH=1"
