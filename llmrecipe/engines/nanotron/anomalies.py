"""Steps that would do harm: a loss or gradient that isn't finite, and spikes."""

import math
import statistics
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from nanotron import distributed as dist
from nanotron.parallel import ParallelContext

from llmrecipe.recipe.training import Anomalies

_WATCHED = ("loss", "grad_norm")
_NAMED = 3


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


def share(wrong: str | None, source: int, context: ParallelContext, device: str) -> str | None:
    """The verdict of rank `source`, on every rank."""
    if context.world_pg.size() == 1:
        return wrong
    # Nearly always there is nothing to tell, and one number says so.
    length = torch.tensor(len(wrong or ""), device=device)
    dist.broadcast(length, src=source, group=context.world_pg)
    if length == 0:
        return None
    told = [wrong]
    dist.broadcast_object_list(told, src=source, group=context.world_pg, device=torch.device(device))
    return told[0]


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
