"""Runs a datatrove pipeline, wherever the machine's `text_on` says."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from datatrove.pipeline.base import PipelineStep
from datatrove.utils.stats import MetricStats

from llmrecipe.engines.datatrove.executors.local import LocalExecutor
from llmrecipe.engines.datatrove.executors.ray import RayExecutor
from llmrecipe.engines.datatrove.executors.slurm import SlurmExecutor
from llmrecipe.engines.datatrove.executors.tasks import TaskExecutor
from llmrecipe.recipe.kinds import Place
from llmrecipe.recipe.machine import Machine
from llmrecipe.recipe.place import Local, Ray, Slurm


class _Executor(Protocol):
    def __call__(
        self, what: str, steps: Sequence[PipelineStep], *, tasks: int, machine: Machine, logs: Path
    ) -> TaskExecutor: ...


_EXECUTORS: dict[type[Place], _Executor] = {Local: LocalExecutor, Slurm: SlurmExecutor, Ray: RayExecutor}


def run(
    what: str, steps: Sequence[tuple[str, PipelineStep]], *, tasks: int, machine: Machine, work: Path
) -> Counter[tuple[str, str]]:
    """Run every task of a pipeline of labelled steps, those left out that an earlier run has finished.

    Args:
        what: the work in a few words, for the log.
        steps: the pipeline; every task runs a copy of it.
        tasks: parts that the work is cut into; decides the output, unlike the number of workers.
        machine: where, by how many workers, and the log level.
        work: folder for datatrove's own logs and statistics, and for what tells the finished tasks. All that the steps
            write must be on the same file system.

    Returns:
        Totals over all tasks of what the steps counted, by label and statistic: `{("empty", "dropped"): 3}`.

    Raises:
        StageError: a worker was killed or a job lost. What a step raises comes out as it is, if it is a StageError.
    """
    logs = work / "logs"
    make = _EXECUTORS[type(machine.text_on)]
    make(what, [step for _, step in steps], tasks=tasks, machine=machine, logs=logs).finish()
    totals: Counter[tuple[str, str]] = Counter()
    for rank in range(tasks):
        counted = json.loads((logs / "stats" / f"{rank:05d}.json").read_text(encoding="utf-8"))
        for (label, _), step in zip(steps, counted, strict=True):
            for name, metric in step["stats"].items():
                totals[label, name] += int(MetricStats.from_dict(metric).total)
    return totals
