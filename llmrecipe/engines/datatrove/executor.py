"""Runs a datatrove pipeline over worker processes."""

import contextlib
import copy
import io
import logging
import multiprocessing
import os
import signal
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from datatrove.executor.base import DistributedEnvVars, PipelineExecutor
from datatrove.pipeline.base import PipelineStep
from datatrove.utils.logging import logger as datatrove_logger
from datatrove.utils.logging import setup_default_logger
from datatrove.utils.stats import PipelineStats

from llmrecipe.errors import StageError
from llmrecipe.launch.process import die_with_parent
from llmrecipe.recipe.runtime import Runtime

log = logging.getLogger(__name__)


class Executor(PipelineExecutor):
    """datatrove's executor over `concurrent.futures`.

    LocalPipelineExecutor waits forever for a worker that the kernel killed, and its workers outlive a parent that
    was killed and write on into a folder that the next run takes for its own.
    """

    def __init__(self, what: str, steps: Sequence[PipelineStep], *, tasks: int, runtime: Runtime, work: Path) -> None:
        """
        Args:
            what: the work in a few words, for the log.
            steps: the pipeline; every task runs a copy of it.
            tasks: parts that the work is cut into; decides the output, unlike the number of workers.
            runtime: number of workers and log level.
            work: folder for datatrove's own logs and statistics.
        """
        super().__init__(list(steps), str(work / "logs"), skip_completed=False)
        self.what = what
        self.tasks = tasks
        self.workers = min(runtime.workers, tasks)
        self.verbose = runtime.log_level == "debug"

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

    def run(self) -> PipelineStats:
        """Run every task and add up their statistics.

        Raises:
            StageError: a worker was killed. What a step raises comes out as it is.
        """
        return sum(self._logged(self._in_turn() if self.workers == 1 else self._in_processes()), start=PipelineStats())

    def _in_turn(self) -> Iterable[PipelineStats]:
        for rank in range(self.tasks):
            yield copy.deepcopy(self)._run_task(rank)

    def _in_processes(self) -> Iterable[PipelineStats]:
        # Not forkserver: its children have another parent, whose death they would not be told of.
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(self.workers, mp_context=context, initializer=_start_worker) as pool:
            try:
                for future in as_completed([pool.submit(self._run_task, rank) for rank in range(self.tasks)]):
                    yield future.result()
            except BaseException as error:
                # Leaving the pool waits for its workers, which may have hours of work before them.
                for process in multiprocessing.active_children():
                    process.terminate()
                if isinstance(error, BrokenProcessPool):
                    raise StageError(
                        "a worker process was killed, most likely because memory ran out; "
                        "lower `runtime.workers` and run `dvc repro` again"
                    ) from error
                raise

    def _run_task(self, rank: int) -> PipelineStats:
        if self.verbose:
            datatrove_logger.enable("datatrove")
            return self._run_for_rank(rank)
        # datatrove reports every file at level INFO, every error a second time, and draws progress bars.
        datatrove_logger.disable("datatrove")
        try:
            with contextlib.redirect_stderr(io.StringIO()):
                return self._run_for_rank(rank)
        finally:
            setup_default_logger()

    def _logged(self, results: Iterable[PipelineStats]) -> Iterable[PipelineStats]:
        started = time.monotonic()
        for done, result in enumerate(results, 1):
            log.info("%s: %d of %d shards, %.1f s", self.what, done, self.tasks, time.monotonic() - started)
            yield result


def run(
    what: str, steps: Sequence[tuple[str, PipelineStep]], *, tasks: int, runtime: Runtime, work: Path
) -> Counter[tuple[str, str]]:
    """Run a pipeline of labelled steps; see `Executor` for the arguments.

    Returns:
        Totals over all tasks of what the steps counted, by label and statistic: `{("empty", "dropped"): 3}`.
    """
    result = Executor(what, [step for _, step in steps], tasks=tasks, runtime=runtime, work=work).run()
    totals: Counter[tuple[str, str]] = Counter()
    for (label, _), stats in zip(steps, result.stats, strict=True):
        for name, metric in stats.stats.items():
            totals[label, name] += int(metric.total)
    return totals


def _start_worker() -> None:
    die_with_parent()
    # A Ctrl-C reaches the stage too, which ends its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
