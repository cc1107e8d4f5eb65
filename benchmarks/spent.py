"""What a piece of work in this process takes: seconds, processor seconds and memory, and those of some of its parts.

The peers of a comparison import it as well, so it imports nothing of ours.
"""

import functools
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self


class Spent:
    """A context whose work is measured; its parts are measured apart, and are no part of the work."""

    def __init__(self) -> None:
        self.parts: dict[str, tuple[float, float]] = {}
        self._anonymous = 0.0
        self._ended = threading.Event()
        self._watch = threading.Thread(target=self._look)

    def __enter__(self) -> Self:
        self._watch.start()
        self._started = _now()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._all = _since(self._started)
        self._ended.set()
        self._watch.join()

    def apart(self, part: str, owner: Any, name: str) -> None:
        """Count the calls of a function, by its name in its module, to a part."""
        call: Callable[..., Any] = getattr(owner, name)

        @functools.wraps(call)
        def measured(*arguments: Any, **options: Any) -> Any:
            started = _now()
            try:
                return call(*arguments, **options)
            finally:
                seconds, of_processor = _since(started)
                before = self.parts.get(part, (0.0, 0.0))
                self.parts[part] = (before[0] + seconds, before[1] + of_processor)

        setattr(owner, name, measured)

    def found(self) -> dict[str, float]:
        """Seconds and processor seconds (`cpu`) of the work and each part, and the most memory of the process in MB.

        `rss` counts pages of files that the process has mapped, which Linux takes away where something else needs them;
        `anonymous` doesn't.
        """
        work = [whole - sum(part[index] for part in self.parts.values()) for index, whole in enumerate(self._all)]
        found = {"seconds": work[0], "cpu": work[1], "rss": _megabytes("VmHWM"), "anonymous": self._anonymous}
        for part, (seconds, of_processor) in self.parts.items():
            found |= {part: seconds, f"{part}, cpu": of_processor}
        return found

    def _look(self) -> None:
        while not self._ended.wait(0.02):
            self._anonymous = max(self._anonymous, _megabytes("RssAnon"))


def _now() -> tuple[float, float]:
    """Seconds, and processor seconds of this process and of those that it started and that have ended."""
    used = os.times()
    return time.perf_counter(), used.user + used.system + used.children_user + used.children_system


def _since(before: tuple[float, float]) -> tuple[float, float]:
    seconds, of_processor = _now()
    return seconds - before[0], of_processor - before[1]


def _megabytes(field: str) -> float:
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.partition(f"{field}:")[2].split()[0]) * 1024 / 1e6
