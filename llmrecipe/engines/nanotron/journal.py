"""The steps of a run, from the moment that their work is given to the device until they are written down."""

from collections import deque

from llmrecipe.engines.nanotron.anomalies import Judge
from llmrecipe.engines.nanotron.communication import Communication
from llmrecipe.engines.nanotron.readings import Reading
from llmrecipe.engines.runs.logs import Logs
from llmrecipe.engines.runs.metrics import Row


class Journal:
    """Judges every step on every rank, and has the rank that logs write what it says."""

    def __init__(self, judge: Judge, communication: Communication, logs: Logs | None) -> None:
        """`logs` is None on a rank that doesn't log."""
        self._judge, self._communication, self._logs = judge, communication, logs
        self._unwritten: deque[Reading] = deque()

    def add(self, reading: Reading) -> None:
        """A step whose work is given to the device."""
        self._unwritten.append(reading)

    def judge(self) -> None:
        """Judge all steps so far."""
        for reading in self._unwritten:
            self._judged(reading)

    def validated(self, loss: float, seconds: float) -> None:
        """After the newest step the held-out sequences had this loss; to measure it took so many seconds."""
        self._unwritten[-1].row["validation_loss"] = loss
        if self._logs is not None:
            self._logs.progress.validated(loss, seconds)

    def write(self, *, all_but: int = 0) -> None:
        """Write down the steps so far, but for the newest `all_but`; those have to be judged, which is done here.

        Raises:
            StageError: the run has to stop at one of them.
        """
        while len(self._unwritten) > all_but:
            reading = self._unwritten.popleft()
            row, seconds = self._judged(reading), reading.seconds()
            self._communication.count(reading.waits, seconds)
            if self._logs is not None:
                self._logs.append(row, seconds)

    def sync(self) -> None:
        """Wait until all that is written is on the disk."""
        if self._logs is not None:
            self._logs.sync()

    def close(self, summary: str) -> None:
        """Close the logs, with `summary` as the last line of the progress."""
        if self._logs is not None:
            self._logs.close(summary)

    def _judged(self, reading: Reading) -> Row:
        if not reading.row:
            self._judge.is_sound(reading, reading.losses)
        return reading.row
