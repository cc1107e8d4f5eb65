"""What a run says of its steps: rows in files, events for those who watch, and its progress."""

from pathlib import Path

from llmrecipe.engines.finetuning.job import Job
from llmrecipe.engines.finetuning.states import StateFolder
from llmrecipe.engines.runs import metrics
from llmrecipe.engines.runs.events import Events
from llmrecipe.engines.runs.metrics import MetricsLog, Row
from llmrecipe.progress import TrainingProgress


class Report:
    """What is written of a run, step by step, by one rank."""

    def __init__(self, job: Job, state: StateFolder) -> None:
        """Go on after the rows that are written so far."""
        self._progress = TrainingProgress(
            job.name,
            total=job.num_steps,
            done=job.resumed,
            tokens_per_step=job.tokens_per_step,
            interval=job.machine.log_interval,
            validation_interval=job.training.validation_interval,
        )
        self._events = Events(job.machine.events, Path(job.events), job.name, metrics.read(state.metrics))
        self._metrics, self._timings = MetricsLog(state.metrics), MetricsLog(state.timings)

    def validated(self, loss: float, seconds: float) -> None:
        """After the step that is told next the held-out sequences had this loss; to measure it took so many seconds."""
        self._progress.validated(loss, seconds)

    def append(self, row: Row, seconds: float) -> None:
        """Write a step that took `seconds`."""
        self._metrics.append(row)
        self._timings.append({"step": row["step"], "seconds": seconds})
        self._events.append(row)
        self._progress.step(row["step"], seconds, loss=row["loss"])

    def sync(self) -> None:
        """Wait until all rows are on the disk."""
        self._metrics.sync()
        self._timings.sync()

    def close(self, summary: str) -> None:
        """Close all, with a last line of progress."""
        self._metrics.close()
        self._timings.close()
        self._events.close()
        self._progress.close(summary)
