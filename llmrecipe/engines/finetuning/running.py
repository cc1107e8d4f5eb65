"""A run to its last step: starts its ranks, and resumes what an earlier launch left."""

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

import attrs

from llmrecipe import artifacts, identity
from llmrecipe.engines.finetuning import states
from llmrecipe.engines.finetuning.trainer import Run
from llmrecipe.engines.runs import jobs, metrics
from llmrecipe.engines.runs.events import complete
from llmrecipe.engines.runs.metrics import Row
from llmrecipe.engines.runs.state import StateFolder
from llmrecipe.errors import StageError
from llmrecipe.launch.lock import wait_until_free
from llmrecipe.launch.torchrun import run_ranks
from llmrecipe.recipe.machine import Machine

log = logging.getLogger(__name__)

J = TypeVar("J", bound=Run)


@attrs.frozen(kw_only=True)
class FinishedRun(Generic[J]):
    """What a run left that has come to its end."""

    job: J
    """The run."""

    state: StateFolder
    """Its state, with the checkpoint of its last step."""

    metrics: list[Row]
    """A row a step: step, tokens, learning_rate, grad_norm, loss, and where it is measured validation_loss."""

    timings: list[Row]
    """A row a step that this machine ran: step, seconds."""

    measurements: dict[str, Any]
    """`peak_memory_mb`: the most memory that each rank held."""


def state_of(scratch: Path, inputs: Sequence[Path], decides: Mapping[str, Any]) -> StateFolder:
    """The folder for the state of this very run, once no rank of an earlier launch writes to it any more.

    Args:
        scratch: a folder for the states of runs.
        inputs: artifacts that it reads.
        decides: what else decides what it computes, layout included, which decides how sums are rounded.
    """
    folder = identity.work_folder(scratch, {**decides, "inputs": [identity.of_artifact(path) for path in inputs]})
    folder.mkdir(parents=True, exist_ok=True)
    state = StateFolder(folder)
    # A rank whose launcher was killed follows it within moments.
    wait_until_free(state.lock, seconds=30)
    return state


def finish(
    job: J, module: str, state: StateFolder, last: Callable[[Sequence[Row]], int | None] = lambda _: None
) -> FinishedRun[J]:
    """Train to the last step.

    Args:
        job: the run; its state and what it resumes are filled in.
        module: the program of a rank.
        state: its folder.
        last: the step that the rows say is the last, if that comes before the job's.

    Raises:
        StageError: a rank failed.
    """

    def ended(step: int) -> bool:
        rows = [row for row in metrics.read(state.metrics) if row["step"] <= step]
        return step == job.num_steps or (step > 0 and last(rows) == step)

    step = states.newest(state)
    if step > 0:
        log.info("resumes after step %d of %d", step, job.num_steps)
    if not ended(step):
        job = attrs.evolve(cast(Any, job), state=str(state.root), resumed=step)
        _start(job, module, state)
        step = states.newest(state)
    if not ended(step):
        raise StageError(
            f"{job.name}: the run has ended, and its newest whole checkpoint is that of step {step} of "
            f"{job.num_steps}; `dvc repro` resumes from there"
        )
    logged = [row for row in metrics.read(state.metrics) if row["step"] <= step]
    complete(job.machine.events, Path(job.events), job.name, logged)
    return FinishedRun(
        job=job,
        state=state,
        metrics=logged,
        timings=metrics.read(state.timings),
        measurements=artifacts.read_json(state.measurements) if state.measurements.exists() else {},
    )


def _start(job: Run, module: str, state: StateFolder) -> None:
    state.rewind(job.resumed)
    jobs.write(job, state.job)
    run_ranks(
        job.name,
        module,
        [str(state.job)],
        ranks=job.parallelism.world_size,
        threads_per_rank=job.parallelism.threads_per_rank,
        device=job.machine.device,
        environment=_environment(job.machine),
    )


def _environment(machine: Machine) -> dict[str, str]:
    # Else cuBLAS may add up a product's parts in any order.
    return {"CUBLAS_WORKSPACE_CONFIG": ":4096:8"} if machine.device == "cuda" and machine.deterministic else {}
