"""Where a run keeps what it needs to resume, and what it has logged so far."""

import shutil
from pathlib import Path

import attrs

from llmrecipe import artifacts
from llmrecipe.engines.runs import metrics
from llmrecipe.engines.runs.checkpoints import checkpoints


@attrs.frozen
class StateFolder:
    """The folder of one run."""

    root: Path
    """The folder."""

    @property
    def checkpoints(self) -> Path:
        """Checkpoints by step; each is whole, since it is renamed into place."""
        return self.root / "checkpoints"

    def checkpoint(self, step: int) -> Path:
        """The checkpoint of a step."""
        return self.checkpoints / str(step)

    @property
    def metrics(self) -> Path:
        """JSON lines, one a step, that depend on the recipe alone."""
        return self.root / "metrics.jsonl"

    @property
    def timings(self) -> Path:
        """JSON lines, one a step, of what this machine took."""
        return self.root / "timings.jsonl"

    @property
    def measurements(self) -> Path:
        """What the launch that finished the run measured of its ranks."""
        return self.root / "measurements.json"

    @property
    def job(self) -> Path:
        """The job that the ranks read."""
        return self.root / "job.json"

    @property
    def lock(self) -> Path:
        """What every rank holds until it is gone."""
        return self.root / "ranks.lock"

    def rewind(self, step: int) -> None:
        """Forget what came after a step: its rows, and checkpoints that nothing resumes from, such as those after one
        that is damaged."""
        for newer, folder in checkpoints(self.checkpoints):
            # Before its rows, without which nothing may take it for whole.
            if newer > step:
                shutil.rmtree(folder)
        for rows in (self.metrics, self.timings):
            artifacts.write_jsonl(rows, [row for row in metrics.read(rows) if row["step"] <= step])
