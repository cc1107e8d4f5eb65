"""One run of a proof: the train stage as DVC runs it, in a folder of its own."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import attrs

from llmrecipe import artifacts, codec, layout, machines, wiring
from llmrecipe.certify.comparison import Row
from llmrecipe.errors import StageError
from llmrecipe.extensions import extensions_of
from llmrecipe.plan.planner import plan
from llmrecipe.plan.stage import Stage
from llmrecipe.recipe.machine import Machine
from llmrecipe.recipe.model import Trained
from llmrecipe.recipe.recipe import Recipe
from llmrecipe.sections import TrainSection
from llmrecipe.wiring import Wiring

_POLL = 0.005
"""Seconds between two looks at a run that will be killed; its steps take several times that."""


@attrs.frozen(kw_only=True)
class Run:
    """A folder in which the train stage of a shrunk model runs."""

    root: Path
    """The folder, which is a project of its own."""

    stage: Stage
    """The stage."""

    @classmethod
    def create(cls, root: Path, model: Trained, inputs: Mapping[str, Path], machine: Machine) -> "Run":
        """Lay out the project of `model` in a new folder, with `inputs` by role where the stage looks for them."""
        stage = train_stage(Recipe(name=model.name, models=(model,)), model)
        for role, path in stage.inputs.items():
            place = root / path
            place.parent.mkdir(parents=True, exist_ok=True)
            place.symlink_to(inputs[role].resolve())
        extensions = tuple(str(Path(file).resolve()) for file in extensions_of(stage.section, Path()))
        parameters = {
            stage.name: wiring.written(stage.section, Wiring(inputs=stage.inputs, extensions=extensions)),
            machines.ENTRY: {machines.DEFAULT: codec.unstructure(machine)},
        }
        # JSON is YAML.
        artifacts.write_json(root / layout.MACHINES_FILE, parameters)
        return cls(root=root, stage=stage)

    @property
    def checkpoint(self) -> Path:
        """The checkpoint artifact that it leaves."""
        return self.root / self.stage.output / "checkpoint"

    @property
    def math_library(self) -> str | None:
        """What multiplied in its linear layers; None if that was left to torch, or it hasn't run."""
        for job in self.root.glob(f"{self._state}/job.json"):
            library: str | None = artifacts.read_json(job)["math_library"]
            return library
        return None

    def train(self) -> list[Row]:
        """Train, or finish training, and return the steps as they were logged.

        Raises:
            StageError: the stage failed, and has said why.
        """
        with self._start() as process:
            self._refuse_failure(process.wait())
        return _rows(self.checkpoint / "metrics.jsonl")

    def train_until_killed(self, step: int) -> tuple[int, int]:
        """Train, and end the run with SIGKILL when it has done `step` steps.

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
        return layout.SCRATCH / self.stage.name / "*"

    def _start(self) -> subprocess.Popen:
        # `-P`, since the folder is no place to import from.
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "llmrecipe.launch.child", str(os.getpid()), *self._command()],
            cwd=self.root,
            # The machine of the proof is the one that its parameters name.
            env={**os.environ, "LLMRECIPE_MACHINE": ""},
        )

    def _command(self) -> list[str]:
        return ["llmrecipe", "stage", self.stage.kind, "--name", self.stage.name, "--output", self.stage.output]

    def _refuse_failure(self, status: int) -> None:
        if status != 0:
            raise StageError(f"{self.root}: this run failed, for the reason above; the folder is kept")

    def _logged(self) -> list[Row]:
        return [row for path in self.root.glob(f"{self._state}/metrics.jsonl") for row in _rows(path)]


def train_stage(recipe: Recipe, model: Trained) -> Stage:
    """The stage that trains a model of a recipe."""
    return next(stage for stage in plan([recipe]).stages if (stage.owner, stage.kind) == (model.name, TrainSection.tag))


def _rows(path: Path) -> list[Row]:
    """The whole lines of a log of JSON lines; the last may be half written."""
    lines = path.read_text(encoding="utf-8").split("\n")[:-1]
    return [json.loads(line) for line in lines]
