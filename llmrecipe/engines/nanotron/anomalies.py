"""Steps that would do harm: a loss or gradient that isn't finite, and spikes."""

import logging
import math
import statistics
from collections import deque
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NoReturn

import torch
from nanotron import distributed as dist
from nanotron.parallel import ParallelContext

from llmrecipe.engines.nanotron.job import Job, NanotronFolder
from llmrecipe.engines.nanotron.readings import Reading
from llmrecipe.engines.runs.metrics import Row
from llmrecipe.errors import StageError
from llmrecipe.recipe.training import Anomalies

log = logging.getLogger(__name__)

_WATCHED = ("loss", "grad_norm")
_NAMED = 3

_MOST_SKIPPED = 10
"""Steps in a row that may be skipped: if more are broken, it isn't the batch."""


class Watch:
    """Judges steps by those before."""

    def __init__(self, anomalies: Anomalies, rows: Iterable[Mapping[str, Any]]) -> None:
        """`rows` are the metrics of the steps so far."""
        self._anomalies = anomalies
        self._history: dict[str, deque[float]] = {name: deque(maxlen=anomalies.window) for name in _WATCHED}
        self.skipped_in_a_row = 0
        for row in rows:
            self._remember(row)
            self.count(is_skipped="skipped" in row)

    def verdict(self, row: Mapping[str, Any]) -> str | None:
        """What is wrong with this step, in words; None if nothing is."""
        wrong = ", ".join(self._wrong(row))
        self._remember(row)
        return wrong or None

    def count(self, *, is_skipped: bool) -> None:
        """Take note of a step."""
        self.skipped_in_a_row = self.skipped_in_a_row + 1 if is_skipped else 0

    def _wrong(self, row: Mapping[str, Any]) -> Iterable[str]:
        sigmas, window = self._anomalies.spike_sigmas, self._anomalies.window
        for name, history in self._history.items():
            if not math.isfinite(row[name]):
                yield f"{name} = {row[name]}"
            elif sigmas is not None and len(history) >= max(2, window / 2):
                limit = statistics.fmean(history) + sigmas * statistics.pstdev(history)
                if row[name] > limit:
                    yield (
                        f"{name} = {row[name]:.4g}, a spike above {limit:.4g}: {sigmas:g} standard deviations over the "
                        f"mean of {len(history)} steps"
                    )

    def _remember(self, row: Mapping[str, Any]) -> None:
        # Spikes too: a level that lasts isn't a spike.
        for name, history in self._history.items():
            if math.isfinite(row.get(name, math.nan)):
                history.append(row[name])


class Judge:
    """Decides whether the weights may learn from a step, the same on every rank."""

    def __init__(self, job: Job, rows: Iterable[Row], context: ParallelContext, *, speaks: bool) -> None:
        """`rows` are the metrics of the steps so far; one rank `speaks` of what is skipped."""
        self._anomalies = job.section.training.anomalies
        self._job, self._context, self._speaks = job, context, speaks
        self._watch = Watch(self._anomalies, rows)

    @property
    def comes_first(self) -> bool:
        """Whether a step has to be judged before the weights learn from it, since it may be skipped.

        Where it can only end the run, it may be judged later, as long as nothing of what was learned since is kept.
        """
        return self._anomalies.action == "skip"

    def is_sound(self, reading: Reading, tensors: Mapping[str, torch.Tensor]) -> bool:
        """Whether the weights may learn from this step; `tensors` are what of it may be broken. Every rank has to ask.

        Raises:
            StageError: they may not, and the recipe wants to stop at such a step, or too many came in a row.
        """
        row = reading.read()
        wrong = self._watch.verdict(row)
        self._watch.count(is_skipped=wrong is not None)
        if wrong is None:
            return True
        ranks = broken_on(tensors, self._context)
        where = f" ({ranks})" if ranks else ""
        what = f"step {row['step']} has {wrong}{where}"
        if self._anomalies.action == "stop":
            self.stop(f"{what}; training.anomalies.action = 'skip' continues from the last checkpoint, past this batch")
        if self._watch.skipped_in_a_row > _MOST_SKIPPED:
            self.stop(f"{what}, and the {_MOST_SKIPPED} steps before it were broken too")
        if self._speaks:
            log.warning("%s; skipped", what)
        finite = {name: value for name, value in row.items() if not isinstance(value, float) or math.isfinite(value)}
        reading.row = finite | {"skipped": wrong}
        return False

    def stop(self, reason: str) -> NoReturn:
        """End the run.

        Raises:
            StageError: always.
        """
        raise StageError(
            f"{self._job.name}: {reason}. A lower training.optimizer.learning_rate or training.clip_grad_norm, or a "
            "longer warm-up, may help, and starts afresh; the checkpoints before this step are kept in "
            f"{NanotronFolder(Path(self._job.state)).checkpoints}"
        )


def broken_on(tensors: Mapping[str, torch.Tensor], context: ParallelContext) -> str | None:
    """Which tensors aren't finite on which rank, in words; None if all are. Every rank has to ask.

    Where it is the loss, which every replica has for itself, the ranks are those where it began. A gradient that is
    broken was added up over the replicas before, so all of them have it.
    """
    mine = [name for name, tensor in tensors.items() if not tensor.isfinite().all()]
    everyone: list[list[str]] = [[]] * context.world_pg.size()
    dist.all_gather_object(everyone, mine, group=context.world_pg)
    if any("loss" in names for names in everyone):
        everyone = [names if "loss" in names else [] for names in everyone]
    found = [
        f"{', '.join(names[:_NAMED])}{', …' if names[_NAMED:] else ''} on rank {rank}"
        for rank, names in enumerate(everyone)
        if names
    ]
    return "; ".join(found) or None
