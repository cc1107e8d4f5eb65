"""What is written of a run, step by step, by one rank."""

from collections.abc import Sequence
from pathlib import Path

from llmrecipe.engines.runs.events import Events
from llmrecipe.engines.runs.jobs import Launch
from llmrecipe.engines.runs.metrics import MetricsLog, Row
from llmrecipe.engines.runs.state import StateFolder
from llmrecipe.progress import TrainingProgress


class Logs:
    """Rows in files, events for those who watch, and the progress."""

    def __init__(self, job: Launch, rows: Sequence[Row], progress: TrainingProgress) -> None:
        """Go on after `rows`, what is written so far."""
        state = StateFolder(Path(job.state))
        self.progress = progress
        self._events = Events(job.machine.events, Path(job.events), job.name, rows)
        self._metrics, self._timings = MetricsLog(state.metrics), MetricsLog(state.timings)

    def append(self, row: Row, seconds: float) -> None:
        """Write a step that took `seconds`."""
        self._metrics.append(row)
        self._events.append(row)
        self._timings.append({"step": row["step"], "seconds": seconds})
        self.progress.step(row["step"], seconds, loss=row.get("loss"))

    def sync(self) -> None:
        """Wait until all rows are on the disk."""
        self._metrics.sync()
        self._timings.sync()

    def close(self, summary: str) -> None:
        """Close all, with a last line of progress."""
        self._metrics.close()
        self._timings.close()
        self._events.close()
        self.progress.close(summary)
