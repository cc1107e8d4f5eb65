"""A folder in which the train stage runs as DVC runs it, to be interrupted and started again."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import attrs
import yaml
from tiny_training import TRAINING, section

from llmrecipe import Machine, Parallelism, Steps, Training, artifacts, codec, machines, wiring
from llmrecipe.wiring import Wiring

# Steps slow enough to be interrupted at a chosen one.
SLOW = attrs.evolve(TRAINING, duration=Steps(30), global_batch_size=32)


class Project:
    """A project with one stage, the state of its run and its outputs."""

    def __init__(
        self,
        root: Path,
        tokens: Path,
        parallelism: Parallelism,
        training: Training = SLOW,
        checkpoint_interval: int = 5,
    ) -> None:
        self.root = root
        root.mkdir()
        machine = Machine(device="cpu", checkpoint_interval=checkpoint_interval)
        parameters = {
            "t-train": wiring.written(section(parallelism, training=training), Wiring(inputs={"tokens": str(tokens)})),
            machines.ENTRY: {machines.DEFAULT: codec.unstructure(machine)},
        }
        (root / "params.yaml").write_text(yaml.safe_dump(parameters))
        self.command = [sys.executable, "-m", "llmrecipe", "stage", "train", "--name", "t-train"]
        self.command += ["--output", "artifacts/t/train"]
        self.output = root / "artifacts" / "t" / "train"

    def start(self, **environment: str) -> subprocess.Popen:
        """The stage, at work, with these additions to its environment."""
        # A test that was a rank itself, in its own process, has left its number behind.
        ours = {name: value for name, value in os.environ.items() if name != "RANK"}
        environment = ours | {"DVC_ROOT": str(self.root)} | environment
        return subprocess.Popen(self.command, cwd=self.root, stderr=subprocess.PIPE, text=True, env=environment)

    def finish(self) -> str:
        """Run the stage to its end; what it says."""
        process = self.start()
        message = process.communicate(timeout=300)[1]
        assert process.returncode == 0, message
        return message

    def run_into(self, switch: dict[str, Any]) -> tuple[int, str]:
        """Run the stage with a kill switch (see `kill_switch/sitecustomize.py`): its exit status and what it says."""
        path = f"{Path(__file__).parent / 'kill_switch'}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
        process = self.start(PYTHONPATH=path.rstrip(os.pathsep), KILL_SWITCH=json.dumps(switch))
        message = process.communicate(timeout=120)[1]
        return process.returncode, message

    @property
    def state(self) -> Path:
        """The folder of the training's resumable state."""
        return next(self.root.glob(".llmrecipe/t-train/*/meaning.json")).parent

    def checkpoints(self) -> list[int]:
        """Steps of the checkpoints that are there, sorted."""
        return sorted(int(path.name) for path in (self.state / "checkpoints").glob("*[0-9]"))

    def steps_done(self) -> int:
        logs = list(self.root.glob(".llmrecipe/t-train/*/metrics.jsonl"))
        return logs[0].read_text().count("\n") if logs else 0

    def wait_for_step(self, step: int, process: subprocess.Popen) -> None:
        deadline = time.monotonic() + 120
        while self.steps_done() < step:
            assert process.poll() is None, process.stderr.read()
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def steps_logged(self) -> list[int]:
        """The steps in the log that the stage has put out, in its order."""
        rows = (self.output / "checkpoint" / "metrics.jsonl").read_text().splitlines()
        return [json.loads(row)["step"] for row in rows]

    def outputs(self) -> dict[str, str]:
        """Every file of the stage's output with its digest."""
        files = [path for path in self.output.rglob("*") if path.is_file()]
        return {str(path.relative_to(self.output)): artifacts.file_digest(path) for path in files}
