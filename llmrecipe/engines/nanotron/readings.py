"""What a step says of itself: numbers on their way from the device to whoever judges and writes them."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from llmrecipe.engines.nanotron.clock import Clock
from llmrecipe.engines.nanotron.communication import Span
from llmrecipe.engines.runs.metrics import Row


class Reading:
    """The numbers of one step: copied to this process once the device has them, without anybody waiting."""

    def __init__(
        self,
        known: Row,
        names: Sequence[str],
        values: torch.Tensor,
        samples: torch.Tensor,
        losses: Mapping[str, torch.Tensor],
        started: Any,
        clock: Clock,
    ) -> None:
        """
        Args:
            known: what is known without the device.
            names: of what is known on the device.
            values: its numbers, `float32[names]`.
            samples: `TrainingBatches.take_digest` of the whole batch, an `int64` scalar on the device.
            losses: this replica's own, to be kept on the device.
            started: when the step began, by `clock`.
            clock: the device's.
        """
        self._known, self._names, self._clock = known, names, clock
        # From a GPU into memory that it writes by itself, which holds nothing before it has come to this.
        self._values = values.to("cpu", non_blocking=True)
        self._samples = samples.to("cpu", non_blocking=True)
        self._copied = clock.now()
        self._started = started
        self._ended: Any = None
        self.losses = losses
        self.waits: list[Span] = []
        self.row: Row = {}
        """The numbers of the step, once they are read."""

    def read(self) -> Row:
        """The numbers of the step, which this waits for."""
        self._clock.wait(self._copied)
        numbers = dict(zip(self._names, self._values.tolist(), strict=True))
        self.row = self._known | numbers | {"samples": f"{self._samples.item() % 2**64:016x}"}
        return self.row

    def end(self, waits: list[Span]) -> None:
        """All work of the step is given to the device; `waits` are what of it waits for other ranks."""
        self._ended, self.waits = self._clock.now(), waits

    def seconds(self) -> float:
        """How long the step took, which this waits for."""
        self._clock.wait(self._ended)
        return self._clock.seconds(self._started, self._ended)
