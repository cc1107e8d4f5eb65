"""`dvc repro` after Ctrl-C, and after DVC was killed, and in another folder."""

import os
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest
import yaml
from dvc_project import create, environment, repro
from tiny_recipe import BASE, SMALLER

from llmrecipe import Fraction, Machine, Parallelism, Recipe, Steps, evolve
from llmrecipe.plan.planner import plan

pytestmark = pytest.mark.slow

# Steps of a fifth of a second: slow enough to be interrupted at a chosen one.
SLOW = evolve(
    BASE,
    text__heldout=Fraction(0.1),
    training__duration=Steps(40),
    training__global_batch_size=64,
    parallelism=Parallelism(data=2, micro_batch_size=2),
)
LONG = Recipe(name="small", models=(SLOW, evolve(SMALLER, model=SLOW)))
MACHINE = Machine(device="cpu", checkpoint_interval=5)


def hashes(project: Path) -> dict[str, str]:
    """DVC's hash of every output."""
    stages = yaml.safe_load((project / "dvc.lock").read_text())["stages"]
    return {out["path"]: out["md5"] for stage in stages.values() for out in stage["outs"]}


def steps_done(project: Path) -> int:
    logs = list(project.glob(".llmrecipe/tiny-train/*/metrics.jsonl"))
    return logs[0].read_text().count("\n") if logs else 0


def start_until_step(project: Path, step: int) -> subprocess.Popen:
    """`dvc repro`, whose run is at this step."""
    dvc = subprocess.Popen(
        ["dvc", "repro"],
        cwd=project,
        env=environment(project),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 180
    while steps_done(project) < step:
        assert dvc.poll() is None, dvc.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return dvc


def family(process: subprocess.Popen) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


def test_after_ctrl_c_and_a_killed_dvc_the_hashes_are_those_of_another_folder_with_other_runtime_choices(tmp_path):
    project = create(tmp_path / "project", LONG, MACHINE)

    dvc = start_until_step(project, 8)
    children = family(dvc)
    os.killpg(dvc.pid, signal.SIGINT)
    output = dvc.communicate(timeout=60)[0]
    assert dvc.returncode != 0
    assert "Traceback" not in output
    assert psutil.wait_procs(children, timeout=10)[1] == []
    assert not (project / "artifacts" / "tiny" / "train").exists()

    dvc = start_until_step(project, 25)
    children = family(dvc)
    assert len(children) >= 3
    dvc.kill()
    dvc.communicate(timeout=60)
    assert psutil.wait_procs(children, timeout=20)[1] == []

    to_come = {stage.name for stage in plan([LONG]).stages if stage.owner.startswith(("tiny", "small"))}
    assert {"tiny-train", "tiny-export", "small-report"} < to_come
    assert set(repro(project)) == to_come
    assert repro(project) == []

    other = Machine(device="cpu", workers=1, checkpoint_interval=100, log_level="debug", log_interval=1)
    straight = create(tmp_path / "Größe – 日本" / "another project", LONG, other)
    repro(straight)
    assert hashes(project) == hashes(straight)
