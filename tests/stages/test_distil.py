"""The distil stage: a model with its curves and numbers, and the same bytes after it was killed."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import tiny_model
import yaml
from tiny_distillation import SMALLER, section
from transformers import AutoModelForCausalLM, AutoTokenizer

from llmrecipe import Machine, artifacts, cards, codec, distil, identity, machines, wiring
from llmrecipe.cards import ModelCard
from llmrecipe.sections import DistilSection, PredictSection
from llmrecipe.stages import predict
from llmrecipe.wiring import Wiring

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A teacher and its tokens."""
    inputs = tiny_model.make(tmp_path_factory.mktemp("made"))
    return {"teacher": inputs["model"], "tokens": inputs["tokens"]}


class Project:
    """A folder in which the stage runs as DVC runs it, to be interrupted and started again."""

    def __init__(self, root: Path, what: DistilSection, inputs: dict[str, Path]) -> None:
        self.root, self.output = root, root / "artifacts" / "t" / "distil"
        root.mkdir()
        tied = Wiring(inputs={role: str(path) for role, path in inputs.items()})
        machine = Machine(device="cpu", checkpoint_interval=2)
        parameters = {
            "t-distil": wiring.written(what, tied),
            machines.ENTRY: {machines.DEFAULT: codec.unstructure(machine)},
        }
        (root / "params.yaml").write_text(yaml.safe_dump(parameters))

    def run(self, switch: dict | None = None) -> tuple[int, str]:
        """The stage's exit status, and what it says; with a kill switch (see `kill_switch/sitecustomize.py`)."""
        command = [sys.executable, "-m", "llmrecipe", "stage", "distil", "--name", "t-distil"]
        environment = {name: value for name, value in os.environ.items() if name != "RANK"}
        if switch is not None:
            path = f"{Path(tiny_model.__file__).parent / 'kill_switch'}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
            environment |= {"PYTHONPATH": path.rstrip(os.pathsep), "KILL_SWITCH": json.dumps(switch)}
        done = subprocess.run(
            [*command, "--output", "artifacts/t/distil"],
            cwd=self.root,
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        return done.returncode, done.stderr

    def finish(self) -> str:
        status, said = self.run()
        assert status == 0, said
        return said

    def checkpoints(self) -> list[int]:
        return sorted(int(path.name) for path in self.root.glob(".llmrecipe/t-distil/*/checkpoints/*[0-9]"))

    def outputs(self) -> dict[str, str]:
        files = [path for path in self.output.rglob("*") if path.is_file()]
        return {str(path.relative_to(self.output)): artifacts.file_digest(path) for path in files}


@pytest.fixture(scope="module")
def straight(made, tmp_path_factory) -> Project:
    project = Project(tmp_path_factory.mktemp("project") / "straight", section(), made)
    project.finish()
    return project


def test_a_stage_leaves_a_model_its_curves_and_its_numbers(made, straight):
    model = AutoModelForCausalLM.from_pretrained(straight.output / "model")
    assert model.config.num_hidden_layers == SMALLER.num_layers
    assert len(AutoTokenizer.from_pretrained(straight.output / "model")) == 320
    card = cards.read(straight.output / "model", ModelCard)
    assert (card.network, card.made_by, card.step, card.vocab_size) == (SMALLER, "distil", 6, 320)
    assert card.parents == {role: identity.of_artifact(path) for role, path in made.items()}
    assert card.objective == tiny_model.OBJECTIVE
    artifacts.verify(straight.output / "model", "model")
    curves = (straight.output / "curves.csv").read_text().splitlines()
    assert curves[0] == "step,tokens,loss,learning_rate,grad_norm"
    assert [line.split(",")[0] for line in curves[1:]] == ["1", "2", "3", "4", "5", "6"]
    assert [line.split(",")[0] for line in (straight.output / "validation.csv").read_text().splitlines()[1:]] == [
        "3",
        "6",
    ]
    numbers = artifacts.read_json(straight.output / "metrics.json")
    assert {name: numbers[name] for name in ("steps", "tokens", "parameters")} == {
        "steps": 6,
        "tokens": 6 * 8 * 32,
        "parameters": model.num_parameters(),
    }
    assert str(numbers["loss"]) == curves[-1].split(",")[2]
    # Nothing is left of what it needed to resume.
    assert not list(straight.root.glob(".llmrecipe/t-distil/*"))


def test_killed_in_a_checkpoint_it_ends_with_the_same_bytes(made, tmp_path, straight):
    killed = Project(tmp_path / "killed", section(), made)
    switch = {"event": "os.rename", "path": "/checkpoints/4$", "count": 1, "rank": "0", "victims": "all"}
    assert killed.run(switch)[0] == -signal.SIGKILL
    assert not killed.output.exists()
    said = killed.finish()
    assert "resumes after step 2 of 6" in said
    assert killed.outputs() == straight.outputs()


def test_a_student_of_stored_predictions_is_a_model_like_any_other(made, tmp_path):
    predictions = tmp_path / "predict"
    predictions.mkdir()
    what = PredictSection(top_k=16, sequences=48, seed=5, validation_sequences=10)
    predict.run(tiny_model.stage_context(what, made, predictions))
    inputs = {**made, "predictions": predictions / "predictions"}
    project = Project(tmp_path / "project", section(teacher_logits=distil.Stored(top_k=16)), inputs)
    project.finish()
    card = cards.read(project.output / "model", ModelCard)
    assert card.parents == {role: identity.of_artifact(path) for role, path in inputs.items()}
    assert card.network == SMALLER
