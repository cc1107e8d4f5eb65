"""How far a training is: one moving line on a terminal, plain lines in a log."""

import sys
import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn


class TrainingProgress:
    """Progress of the steps of a training on standard error."""

    def __init__(self, name: str, *, total: int, done: int, tokens_per_step: int, interval: int) -> None:
        """Start at step `done` of `total`; a log gets a line every `interval` steps."""
        self._name = name
        self._total = total
        self._tokens_per_step = tokens_per_step
        self._interval = interval
        self._started = time.monotonic()
        self._first = done
        self._validation_loss: float | None = None
        self._bar: Progress | None = None
        if sys.stderr.isatty():
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[status]}"),
                console=Console(stderr=True),
                transient=True,
            )
            self._task = self._bar.add_task(name, total=total, completed=done, status="")
            self._bar.start()

    def step(self, step: int, seconds: float, *, loss: float | None, validation_loss: float | None) -> None:
        """A step is done: it took `seconds` and had this loss, if any."""
        if validation_loss is not None:
            self._validation_loss = validation_loss
        status = self._status(step, seconds, loss)
        if self._bar is not None:
            self._bar.update(self._task, completed=step, status=status)
        elif step % self._interval == 0 or step == self._total or step == self._first + 1:
            print(f"{self._name}: step {step}/{self._total}  {status}", file=sys.stderr, flush=True)

    def close(self, summary: str) -> None:
        """Leave the terminal as it was, with a last line that says `summary`."""
        if self._bar is not None:
            self._bar.stop()
        print(f"{self._name}: {summary}", file=sys.stderr, flush=True)

    def _status(self, step: int, seconds: float, loss: float | None) -> str:
        elapsed = time.monotonic() - self._started
        left = elapsed / (step - self._first) * (self._total - step)
        validation = "" if self._validation_loss is None else f"  validation {self._validation_loss:.4f}"
        shown = "none" if loss is None else f"{loss:.4f}"
        return f"loss {shown}{validation}  {self._tokens_per_step / seconds:,.0f} tokens/s  {_clock(left)} left"


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
