"""Runs the tasks of a datatrove pipeline on a Ray cluster."""

import importlib.util
import logging
import os
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import multiprocess
from datatrove.executor.ray import RayPipelineExecutor
from datatrove.pipeline.base import PipelineStep
from datatrove.utils.stats import PipelineStats

from llmrecipe.engines.datatrove.executors.tasks import RemoteExecutor, cleaning_up_on_termination, quiet
from llmrecipe.engines.datatrove.folders import LocalFolder
from llmrecipe.errors import StageError
from llmrecipe.launch.process import die_with_parent
from llmrecipe.recipe.machine import Machine
from llmrecipe.recipe.place import Ray

LOOK_SECONDS = 1.0
"""How often the finished tasks are counted."""


class RayExecutor(RemoteExecutor, RayPipelineExecutor):
    """datatrove's executor, and what it found out."""

    def __init__(self, what: str, steps: Sequence[PipelineStep], *, tasks: int, machine: Machine, logs: Path) -> None:
        on = cast(Ray, machine.text_on)
        self.what = what
        self.remedy = (
            "Raise `memory_per_cpu_gb` of the machine's `text_on`, lower the machine's `workers`, "
            "or raise `corpus.shards` for less of each"
        )
        self.verbose = machine.log_level == "debug"
        self.address = on.address
        with quiet(self.verbose):
            super().__init__(
                list(steps),
                tasks=tasks,
                workers=machine.workers,
                logging_dir=LocalFolder(logs),
                cpus_per_task=on.cpus_per_task,
                mem_per_cpu_gb=on.memory_per_cpu_gb,
            )

    def finish(self) -> None:
        """Have every task run that isn't finished, and wait for it.

        Raises:
            StageError: there is no Ray, or no such cluster or none large enough; a task failed or was lost.
        """
        ranks = self.unfinished()
        if not ranks:
            return
        self._connect()
        self.forget_failures()
        with cleaning_up_on_termination(), self._reporting(len(ranks)), quiet(self.verbose):
            self.run()
        self.refuse_failures()
        left = self.get_incomplete_ranks()
        if left:
            raise self.lost(left[0], "Ray's own log of the node says more")

    def _run_for_rank(self, rank: int, local_rank: int = 0, node_rank: int = -1) -> PipelineStats:
        # The actor that started this process may be killed, and the task given to another.
        actor = multiprocess.parent_process()
        if actor is not None:
            die_with_parent(actor.pid)
        return super()._run_for_rank(rank, local_rank, node_rank)

    def _connect(self) -> None:
        """Join the cluster, unless an earlier pass has; Ray leaves it when this process ends."""
        if importlib.util.find_spec("ray") is None:
            raise StageError(
                "machine.text_on: the package `ray` is not installed; `pip install 'llmrecipe[ray]'`, or use "
                "`text_on=place.Local()`"
            )
        # It reports to its makers otherwise.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        import ray

        if not ray.is_initialized():
            if self.address is not None:
                self._refuse_silent(self.address)
            # The workers import modules of the user's own.
            environment = {"env_vars": {"PYTHONPATH": os.environ.get("PYTHONPATH", ""), "PYTHONSAFEPATH": "1"}}
            ray.init(
                self.address,
                include_dashboard=False,
                log_to_driver=self.verbose,
                logging_level=logging.ERROR,
                runtime_env=environment,
            )
        self._refuse_small(ray.nodes())

    def _refuse_silent(self, address: str) -> None:
        # Ray would try for ten minutes.
        host, _, port = address.rpartition(":")
        try:
            socket.create_connection((host, int(port)), timeout=10).close()
        except OSError as error:
            raise StageError(f"machine.text_on.address: no Ray cluster at {address!r}: {error}") from None

    def _refuse_small(self, nodes: list[dict]) -> None:
        # Ray would wait for a larger node forever.
        cpus, gigabytes = self.cpus_per_task, self.cpus_per_task * self.mem_per_cpu_gb
        found = [(node["Resources"].get("CPU", 0), node["Resources"].get("memory", 0) / 2**30) for node in nodes]
        if not any(have >= cpus and memory >= gigabytes for have, memory in found):
            largest = ", ".join(f"{have:g} and {memory:.1f} GB" for have, memory in sorted(found)[-3:])
            raise StageError(
                f"machine.text_on: a task gets {cpus} cores and {gigabytes} GB, and no node of the Ray cluster "
                f"has as much; the largest have {largest}"
            )

    @contextmanager
    def _reporting(self, left: int) -> Iterator[None]:
        ended = threading.Event()

        def look() -> None:
            reported = left
            while True:
                last = ended.wait(LOOK_SECONDS)
                now = len(self.get_incomplete_ranks())
                if now < reported:
                    reported = now
                    self.report()
                if last:
                    return

        thread = threading.Thread(target=look, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
