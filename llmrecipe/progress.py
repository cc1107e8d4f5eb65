"""How far long work is: one moving line on a terminal, plain lines in a log."""

import logging
import sys
import time
from collections.abc import Iterator, Sequence
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

T = TypeVar("T")

log = logging.getLogger(__name__)

_SILENCE = 10.0
"""Seconds of work without a word."""


def told(work: Sequence[T], what: str) -> Iterator[T]:
    """The parts of some work, one after the other; if it takes long, lines in the log say how far it is."""
    started = said = time.monotonic()
    for done, part in enumerate(work):
        now = time.monotonic()
        if now - said >= _SILENCE:
            said = now
            left = (now - started) / done * (len(work) - done)
            log.info("%s: %d %%, %s left", what, 100 * done // len(work), _clock(left))
        yield part


class _Line:
    """The line on standard error."""

    def __init__(self, name: str, *, total: float, done: float) -> None:
        self._name = name
        self._bar: Progress | None = None
        if sys.stderr.isatty():
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.fields[status]}"),
                console=Console(stderr=True),
                transient=True,
            )
            self._task = self._bar.add_task(name, total=total, status="")
            self._bar.update(self._task, completed=done)
            self._bar.start()

    def update(self, done: float, status: str, *, log: bool, stays: bool = False) -> None:
        """Show how much is done; `log` says whether a log gets a line of it, `stays` that a terminal does, too."""
        if self._bar is not None:
            self._bar.update(self._task, completed=done, status=status)
            if stays:
                self._bar.console.print(f"{self._name}: {status}", markup=False, highlight=False)
        elif log or stays:
            self._print(status)

    def close(self, summary: str) -> None:
        """Leave the terminal as it was, with a last line that says `summary`."""
        if self._bar is not None:
            self._bar.stop()
        self._print(summary)

    def _print(self, text: str) -> None:
        print(f"{self._name}: {text}", file=sys.stderr, flush=True)


class TrainingProgress:
    """Progress of the steps of a run."""

    def __init__(
        self, name: str, *, total: int, done: int, tokens_per_step: int, interval: int, validation_interval: int
    ) -> None:
        """Start at step `done` of `total`; a log gets a line every `interval` steps."""
        self._total = total
        self._tokens_per_step = tokens_per_step
        self._interval = interval
        self._validation_interval = validation_interval
        self._started = time.monotonic()
        self._first = done
        self._validation = ""
        self._validations = 0
        self._validating = 0.0
        self._line = _Line(name, total=total, done=done)

    def validated(self, loss: float, seconds: float) -> None:
        """After the step that is told next the held-out sequences had this loss; to measure it took so many seconds."""
        self._validation = f"  validation {loss:.4f}"
        self._validations += 1
        self._validating += seconds

    def step(self, step: int, seconds: float, *, loss: float | None) -> None:
        """A step is done, and measured if that was due: it took `seconds` by itself and had this loss, if any."""
        status = f"step {step}/{self._total}  {self._status(step, seconds, loss)}"
        is_due = step % self._interval == 0 or step in (self._total, self._first + 1)
        self._line.update(step, status, log=is_due, stays=bool(self._validation))
        self._validation = ""

    def close(self, summary: str) -> None:
        """Leave the terminal as it was, with a last line that says `summary`."""
        self._line.close(summary)

    def _status(self, step: int, seconds: float, loss: float | None) -> str:
        shown = "none" if loss is None else f"{loss:.4f}"
        rate = f"{self._tokens_per_step / seconds:,.0f} tokens/s"
        return f"loss {shown}{self._validation}  {rate}  {_clock(self._left(step))} left"

    def _left(self, step: int) -> float:
        """Seconds to the end: steps with all that goes with them, and the measurements that are still due."""
        by_step = (time.monotonic() - self._started - self._validating) / (step - self._first)
        by_validation = self._validating / self._validations if self._validations else 0.0
        return by_step * (self._total - step) + by_validation * self._validations_left(step)

    def _validations_left(self, step: int) -> int:
        regular = self._total // self._validation_interval - step // self._validation_interval
        # The last step is always measured.
        return regular + (step < self._total and self._total % self._validation_interval > 0)


class GenerationProgress:
    """Progress of a model that writes texts, in batches."""

    def __init__(self, name: str, *, documents: int, interval: int) -> None:
        """Start to write from so many documents; a log gets a line every `interval` batches."""
        self._documents = documents
        self._interval = interval
        self._started = time.monotonic()
        self._batches = 0
        self._done = self._resumed = 0.0
        self._tokens = 0
        self._line = _Line(name, total=documents, done=0)

    def resumed(self, documents: float) -> None:
        """A batch was there already: this part of the documents."""
        self._resumed += documents
        self._done += documents

    def batch(self, documents: float, tokens: int) -> None:
        """A batch is written: of this part of the documents, in so many tokens."""
        self._batches += 1
        self._done += documents
        self._tokens += tokens
        left = (time.monotonic() - self._started) / (self._done - self._resumed) * (self._documents - self._done)
        # Parts of documents are rounded.
        count = min(round(self._done), self._documents)
        status = f"{count:,} of {self._documents:,} documents  {self.tokens_per_second:,.0f} tokens/s"
        log = (self._batches - 1) % self._interval == 0 or count == self._documents
        self._line.update(self._done, f"{status}  {_clock(max(left, 0))} left", log=log)

    def close(self) -> None:
        """Leave the terminal as it was, with a last line."""
        self._line.close(f"{self._tokens:,} tokens, {self.tokens_per_second:,.0f} tokens/s")

    @property
    def tokens_per_second(self) -> float:
        """Tokens written a second, since the start."""
        return self._tokens / (time.monotonic() - self._started)


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
