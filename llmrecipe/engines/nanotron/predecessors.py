"""What a run takes over from earlier ones of another length or schedule: the steps in which both learn alike."""

import logging
import re
import shutil
import textwrap
from collections.abc import Mapping
from pathlib import Path

import attrs

from llmrecipe import artifacts
from llmrecipe.engines.nanotron.checkpoint import needed, newest
from llmrecipe.engines.nanotron.job import Job, NanotronFolder
from llmrecipe.engines.nanotron.meaning import Meaning, akin, others
from llmrecipe.engines.runs import metrics
from llmrecipe.engines.runs.checkpoints import checkpoints
from llmrecipe.engines.runs.metrics import Row
from llmrecipe.engines.runs.schedule import steps_alike
from llmrecipe.launch.lock import wait_until_free
from llmrecipe.recipe.evolve import evolve
from llmrecipe.recipe.schedule import Constant, InverseSquareRoot, WarmupStableDecay
from llmrecipe.recipe.training import Training

log = logging.getLogger(__name__)

_GOING_ON = (Constant, InverseSquareRoot, WarmupStableDecay)
"""Schedules whose first steps don't depend on the length of the run."""

_SHOWN = 3
"""Differences of an earlier run that are told."""

_LONGEST = 80
"""Characters of each."""


@attrs.frozen
class Predecessor:
    """An earlier run that differs from a job in its length and schedule alone."""

    state: NanotronFolder
    """What it has left."""

    training: Training
    """How it was trained; the length is settled."""

    def steps_alike(self, job: Job) -> int:
        """How many of its steps are those of the job as well."""
        return steps_alike(self.training, job.section.training, job.sequence_length)

    def newest(self, job: Job) -> int:
        """The step of its newest whole checkpoint that is also one of the job; 0 if there is none.

        Order of the data, what is masked and what is dropped depend on no length. So a checkpoint is, bit for bit,
        that of the job, as long as all learning rates before it were the same.
        """
        wait_until_free(self.state.lock, seconds=30)
        rows, up_to = self.rows(job), min(self.steps_alike(job), job.num_steps)
        if up_to == job.num_steps and not any(row["step"] == up_to and "validation_loss" in row for row in rows):
            # A run measures after its last step, and the earlier one went on from there.
            up_to -= 1
        return newest(self.state.checkpoints, rows, job.section.training, up_to)

    def rows(self, job: Job) -> list[Row]:
        """The rows of its log as the job would have written them: what was its last step isn't that of the job."""
        return [
            {name: value for name, value in row.items() if name != "validation_loss" or job.validates(row["step"])}
            for row in metrics.read(self.state.metrics)
        ]

    def hand_over(self, state: NanotronFolder, job: Job, step: int) -> None:
        """Copy what the job needs to go on after `step` into its state."""
        rows = self.rows(job)
        earlier = [row for row in rows if row["step"] <= step]
        artifacts.write_jsonl(state.metrics, earlier)
        timings = [row for row in metrics.read(self.state.timings) if row["step"] <= step]
        artifacts.write_jsonl(state.timings, timings)
        # Says by what those steps were multiplied.
        shutil.copyfile(self.state.job, state.job)
        stay = [each for each, _ in checkpoints(self.state.checkpoints) if each < step and job.keeps(each, earlier)]
        # The newest comes last, after those without which it is not taken up.
        others = [each for each in {*stay, *needed(rows, job.section.training, step)} if each != step]
        for each in [*sorted(others), step]:
            with artifacts.replacing(state.checkpoint(each)) as folder:
                shutil.copytree(self.state.checkpoint(each), folder, dirs_exist_ok=True)


def take_over(job: Job, state: NanotronFolder, meaning: Meaning) -> None:
    """Put into the state of a run what earlier ones have left of the steps that they share; say what came of it."""
    windows = job.open_tokens("train").num_windows(job.sequence_length)
    found = {
        folder: Predecessor(
            NanotronFolder(folder),
            evolve(job.section.training, duration=duration, schedule=schedule).settled(windows),
        )
        for folder, duration, schedule in akin(state.root, meaning)
    }
    steps = {folder: each.newest(job) for folder, each in found.items()}
    best = max(steps, key=lambda folder: steps[folder], default=None)
    if best is None or not steps[best]:
        _explain(job, state, meaning, found)
        return
    found[best].hand_over(state, job, steps[best])
    log.info("goes on after step %d of an earlier run, which is kept in %s", steps[best], best)


def _explain(job: Job, state: NanotronFolder, meaning: Meaning, found: Mapping[Path, Predecessor]) -> None:
    alike = {at: each for at, each in found.items() if each.training.schedule == job.section.training.schedule}
    if alike:
        folder = max(alike, key=lambda at: alike[at].steps_alike(job))
        log.warning("starts afresh; an earlier run is kept in %s; %s", folder, _reason(alike[folder], job))
        return
    unlike = sorted(others(state.root, meaning), key=lambda each: len(each[1]))
    if unlike:
        folder, differences = unlike[0]
        listed = ", ".join(map(_short, differences[:_SHOWN]))
        more = f" and {len(differences) - _SHOWN} more" if len(differences) > _SHOWN else ""
        beside = f" (and {len(unlike) - 1} more beside it)" if len(unlike) > 1 else ""
        log.warning("starts afresh; an earlier run is kept in %s%s, with %s%s", folder, beside, listed, more)


def _short(difference: str) -> str:
    # Some characters tell digests apart.
    difference = re.sub(r"\b([0-9a-f]{12})[0-9a-f]{52}\b", r"\1…", difference)
    return textwrap.shorten(difference, _LONGEST, placeholder=" …")


def _reason(earlier: Predecessor, job: Job) -> str:
    """Why none of the checkpoints of an earlier run by the same schedule is one of this run."""
    training, length = job.section.training, job.sequence_length
    name = type(training.schedule).__name__
    if not isinstance(training.schedule, _GOING_ON):
        shorter = earlier.training.num_steps(length)
        return (
            f"under {name} its {shorter} steps aren't the first of {job.num_steps}; under Constant, InverseSquareRoot "
            "or WarmupStableDecay, up to its decay, they are"
        )
    before, after = earlier.training.warmup_steps(length), training.warmup_steps(length)
    if before != after:
        reason = f"its warm-up, {training.schedule.warmup}, took {before} steps and takes {after}"
        return f"{reason}; {name} with warmup=Steps({before}) goes on"
    alike = earlier.steps_alike(job)
    return f"of the {alike} steps that both share, it has no whole checkpoint with all that this run is to keep"
