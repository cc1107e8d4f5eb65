"""Event files of a run, for TensorBoard and W&B, when the machine asks for them."""

import importlib.util

import attrs
import pytest
from tiny_recipe import RECIPE
from tiny_training import LENGTH, SHORT, column, section, trained, write_tokens

from llmrecipe import Machine, Steps, preflight
from llmrecipe.engines.runs.events import Events
from llmrecipe.errors import StageError

ROWS = [
    {"step": 1, "tokens": 8, "samples": "00ff", "learning_rate": 0.1, "grad_norm": 2.0, "loss": 3.0},
    {"step": 2, "tokens": 16, "samples": "00fe", "learning_rate": 0.2, "skipped": "a loss of nan"},
    {"step": 3, "tokens": 24, "samples": "00fd", "learning_rate": 0.2, "loss": 1.5, "validation_loss": 1.25},
]


def scalars(folder, name):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    read = accumulator.EventAccumulator(str(folder))
    read.Reload()
    return [(event.step, event.value) for event in read.Scalars(name)]


def test_tensorboard_reads_every_number_once_after_a_run_was_resumed(tmp_path):
    pytest.importorskip("tensorboard")
    interrupted = Events(["tensorboard"], tmp_path / "train.events", "t-train", ROWS[:2])
    interrupted.append(ROWS[2])
    interrupted.close()
    resumed = Events(["tensorboard"], tmp_path / "train.events", "t-train", ROWS[:1])
    resumed.append(ROWS[1])
    resumed.append(ROWS[2])
    resumed.close()
    folder = tmp_path / "train.events/tensorboard"
    assert scalars(folder, "loss") == [(1, 3.0), (3, 1.5)]
    assert scalars(folder, "validation_loss") == [(3, 1.25)]
    assert scalars(folder, "tokens") == [(1, 8.0), (2, 16.0), (3, 24.0)]
    assert (tmp_path / "train.events/.gitignore").read_text() == "*\n"


def test_a_run_for_wandb_is_offline_in_its_own_folder(tmp_path):
    pytest.importorskip("wandb")
    events = Events(["wandb"], tmp_path / "train.events", "t-train", ROWS)
    events.close()
    (run,) = (tmp_path / "train.events/wandb/wandb").glob("offline-run-*/run-*.wandb")
    content = run.read_bytes()
    assert b"t-train" in content
    assert b"validation_loss" in content


@pytest.mark.slow
def test_event_files_change_no_result_and_a_finished_run_writes_them_as_well(tmp_path):
    pytest.importorskip("tensorboard")
    tokens = write_tokens(tmp_path / "tokens", train=30 * LENGTH, heldout=2_000)
    what = section(training=attrs.evolve(SHORT, duration=Steps(3)))
    plain = trained(what, tokens, tmp_path / "plain")
    assert not (tmp_path / "plain/train.events").exists()
    watched = trained(what, tokens, tmp_path / "watched", events=("tensorboard",))
    assert watched.metrics == plain.metrics
    later = trained(what, tokens, tmp_path / "plain", events=("tensorboard",))
    assert later.metrics == plain.metrics
    for each in ("plain", "watched"):
        found = scalars(tmp_path / each / "train.events/tensorboard", "loss")
        assert [value for _, value in found] == pytest.approx(column(plain, "loss"))


@pytest.mark.parametrize("kind", ["tensorboard", "wandb"])
def test_a_missing_package_is_named_before_anything_runs(tmp_path, monkeypatch, kind):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == kind else found(name))
    message = rf"{kind}'.* pip install 'llmrecipe\[{kind}\]'".replace(" pip", ".*pip")
    with pytest.raises(StageError, match=message):
        trained(section(), tmp_path / "no tokens", tmp_path, events=(kind,))


def test_plan_warns_of_a_missing_package(monkeypatch):
    monkeypatch.setattr("llmrecipe.preflight.importlib.util.find_spec", lambda name: None)
    warned = [str(each) for each in preflight.warnings(RECIPE, Machine(device="cpu", events=("wandb",)))]
    assert any(each.startswith("machine.events[0]: 'wandb'") for each in warned)
