"""The time of a device: when it reached a place in its work, and how long it took from one to another."""

import time
from typing import Any, Protocol

import torch


class Clock(Protocol):
    """Moments of a device's work."""

    def now(self) -> Any:
        """The moment at which all work that was given to the device so far is done."""

    def wait(self, moment: Any) -> None:
        """Until that moment has come."""

    def seconds(self, start: Any, end: Any) -> float:
        """From one moment to another; both have come."""


class CpuClock:
    """Time on a CPU, where a call returns when its work is done."""

    def now(self) -> float:
        """The time."""
        return time.perf_counter()

    def wait(self, moment: float) -> None:
        """Nothing: it has come."""

    def seconds(self, start: float, end: float) -> float:
        """The difference."""
        return end - start


class CudaClock:
    """Time in a GPU's current stream."""

    def now(self) -> torch.cuda.Event:
        """An event in the stream."""
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def wait(self, moment: torch.cuda.Event) -> None:
        """Keeps this process waiting, and not the GPU, which may go on with what comes after."""
        moment.synchronize()

    def seconds(self, start: torch.cuda.Event, end: torch.cuda.Event) -> float:
        """As the GPU measured it."""
        return start.elapsed_time(end) / 1000


def clock_of(device: str) -> Clock:
    """The clock of `cpu` or `cuda`."""
    return CudaClock() if device == "cuda" else CpuClock()
