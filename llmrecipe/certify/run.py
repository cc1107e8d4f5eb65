"""One training of a proof: the pretrain stage as DVC runs it, in a folder of its own."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import attrs

from llmrecipe import artifacts, codec
from llmrecipe.certify.comparison import Row
from llmrecipe.errors import StageError
from llmrecipe.plan.planner import plan
from llmrecipe.plan.stage import Stage
from llmrecipe.recipe.recipe import Recipe
from llmrecipe.stages.runner import SCRATCH

_POLL = 0.005
"""Seconds between two looks at a training that is to be killed; its steps take several times that."""


@attrs.frozen(kw_only=True)
class Run:
    """A folder in which the pretrain stage of a shrunk recipe runs."""

    root: Path
    """The folder, which is a project of its own."""

    stage: Stage
    """The stage."""

    @classmethod
    def create(cls, root: Path, recipe: Recipe, tokens: Sequence[Path]) -> "Run":
        """Lay out the project of `recipe` in a new folder, with `tokens` where the stage looks for them."""
        stage = next(stage for stage in plan([recipe]).stages if stage.kind == "pretrain")
        for path, directory in zip(stage.inputs.values(), tokens, strict=True):
            place = root / path
            place.parent.mkdir(parents=True)
            place.symlink_to(directory.resolve())
        parameters = {stage.name: stage.section, "runtime": {recipe.name: recipe.runtime}}
        # JSON is YAML.
        artifacts.write_json(root / "params.yaml", codec.unstructure(parameters))
        return cls(root=root, stage=stage)

    @property
    def checkpoint(self) -> Path:
        """The checkpoint artifact that it leaves."""
        return self.root / self.stage.output / "checkpoint"

    def train(self) -> list[Row]:
        """Train, or finish training, and return the steps as they were logged.

        Raises:
            StageError: the stage failed, and has said why.
        """
        with self._start() as process:
            self._refuse_failure(process.wait())
        return _rows(self.checkpoint / "metrics.jsonl")

    def train_until_killed(self, step: int) -> tuple[int, int]:
        """Train, and end the training with SIGKILL when it has done `step` steps.

        Returns:
            The last step that it has logged, and the step that the newest checkpoint holds.

        Raises:
            StageError: the stage failed, or was done before it could be killed.
        """
        with self._start() as process:
            while len(self._logged()) < step:
                status = process.poll()
                if status is not None:
                    self._refuse_failure(status)
                    raise StageError(f"{self.root}: trained to its end before it could be killed; use more --steps")
                time.sleep(_POLL)
            # The ranks are asked to die with the process that started them, and so they do.
            process.kill()
        if process.returncode != -signal.SIGKILL:
            raise StageError(f"{self.root}: trained to its end before it could be killed; use more --steps")
        steps = [int(path.name) for path in self.root.glob(f"{self._state}/checkpoints/*") if path.name.isdecimal()]
        return self._logged()[-1]["step"], max(steps, default=0)

    @property
    def _state(self) -> Path:
        return SCRATCH / self.stage.name / "*"

    def _start(self) -> subprocess.Popen:
        # As under DVC, which a stage doesn't outlive; `-P`, since the folder is no place to import from.
        return subprocess.Popen(
            [sys.executable, "-P", "-m", *self.stage.command],
            cwd=self.root,
            env=os.environ | {"DVC_ROOT": str(self.root.resolve())},
        )

    def _refuse_failure(self, status: int) -> None:
        if status != 0:
            raise StageError(f"{self.root}: this training failed, for the reason above; the folder is kept")

    def _logged(self) -> list[Row]:
        return [row for path in self.root.glob(f"{self._state}/metrics.jsonl") for row in _rows(path)]


def _rows(path: Path) -> list[Row]:
    """The whole lines of a log of JSON lines; the last may be half written."""
    lines = path.read_text(encoding="utf-8").split("\n")[:-1]
    return [json.loads(line) for line in lines]
