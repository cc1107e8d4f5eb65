"""Runs the tasks of a datatrove pipeline in processes of this machine."""

import copy
import multiprocessing
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from datatrove.executor.base import DistributedEnvVars
from datatrove.pipeline.base import PipelineStep
from datatrove.utils.stats import PipelineStats

from llmrecipe.engines.datatrove.executors.tasks import TaskExecutor, quiet
from llmrecipe.engines.datatrove.folders import LocalFolder
from llmrecipe.engines.quiet import hide_progress_bars
from llmrecipe.errors import StageError
from llmrecipe.launch.process import begin_worker
from llmrecipe.recipe.machine import Machine


class LocalExecutor(TaskExecutor):
    """datatrove's executor over `concurrent.futures`.

    LocalPipelineExecutor waits forever for a worker that the kernel killed, and its workers outlive a parent that
    was killed and write on into a folder that the next run takes for its own.
    """

    def __init__(self, what: str, steps: Sequence[PipelineStep], *, tasks: int, machine: Machine, logs: Path) -> None:
        super().__init__(list(steps), LocalFolder(logs))
        self.what = what
        self.tasks = tasks
        self.workers = min(machine.workers, tasks)
        self.verbose = machine.log_level == "debug"

    @property
    def world_size(self) -> int:
        """Number of tasks."""
        return self.tasks

    def get_distributed_env(self, node_rank: int = -1) -> DistributedEnvVars:
        """What datatrove wants to know about the machine: a single node."""
        return DistributedEnvVars(
            datatrove_node_ips="localhost",
            datatrove_cpus_per_task="-1",
            datatrove_mem_per_cpu="-1",
            datatrove_gpus_on_node="-1",
            datatrove_executor="LOCAL",
        )

    def run(self) -> None:
        """datatrove's name for it."""
        self.finish()

    def finish(self) -> None:
        """Run every task that isn't finished.

        Raises:
            StageError: a worker was killed. What a step raises comes out as it is.
        """
        ranks = self.unfinished()
        for _ in self._in_turn(ranks) if self.workers == 1 else self._in_processes(ranks):
            self.report()

    def _in_turn(self, ranks: list[int]) -> Iterable[PipelineStats]:
        for rank in ranks:
            yield copy.deepcopy(self)._run_task(rank)

    def _in_processes(self, ranks: list[int]) -> Iterable[PipelineStats]:
        # Not forkserver: its children have another parent, whose death they would not be told of.
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(
            self.workers, mp_context=context, initializer=begin_worker, initargs=(os.getpid(),)
        ) as pool:
            try:
                for future in as_completed([pool.submit(self._run_task, rank) for rank in ranks]):
                    yield future.result()
            except BaseException as error:
                # Leaving the pool waits for its workers, which may have hours of work before them.
                for process in multiprocessing.active_children():
                    process.terminate()
                if isinstance(error, BrokenProcessPool):
                    raise StageError(
                        "a worker process was killed, most likely because memory ran out; "
                        "lower the machine's `workers` and run `dvc repro` again: it resumes with the shards that "
                        "are left"
                    ) from error
                raise

    def _run_task(self, rank: int) -> PipelineStats:
        if multiprocessing.parent_process() is not None:
            os.environ["TOKENIZERS_PARALLELISM"] = "false"
            hide_progress_bars()
        with quiet(self.verbose):
            return self._run_for_rank(rank)
