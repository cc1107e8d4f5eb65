"""No process of ours outlives the one that started it, whenever that dies."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from dvc_project import create, environment
from tiny_recipe import RECIPE

from llmrecipe import Machine, evolve

# Far more than is done before the last of the moments, on a fast machine too.
MANY = evolve(RECIPE, models=(evolve(RECIPE.models[0], text__shards=400),))

GONE_WITHIN = 5.0
"""Seconds."""


def at_work(project: Path) -> list[psutil.Process]:
    """The processes that work in the project: all that was started below its `dvc`."""
    found = []
    for process in psutil.process_iter(["cwd", "status"]):
        if process.info["cwd"] == str(project) and process.info["status"] != psutil.STATUS_ZOMBIE:
            found.append(process)
    return found


def stage_of(project: Path) -> psutil.Process:
    """The process of the running stage, as soon as there is one."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        for process in at_work(project):
            try:
                command = process.cmdline()
            except psutil.Error:
                continue
            if "stage" in command and "prepare" in command and "-c" not in command:
                return process
        time.sleep(0.005)
    raise AssertionError("no stage was started")


@pytest.mark.slow
@pytest.mark.parametrize("shell", ["sh", "bash"])
@pytest.mark.parametrize("victim", ["dvc", "stage"])
def test_whenever_dvc_or_a_stage_is_killed_its_workers_are_gone_within_seconds(tmp_path, victim, shell):
    project = create(tmp_path / "project", MANY, Machine(workers=2))
    moments = {}
    for moment in (0.0, 0.05, 0.2, 0.5, 0.8, 1.1, 1.5, 2.0, 2.6):
        # Nothing is gone on with: its workers would have nothing to do.
        shutil.rmtree(project / ".llmrecipe", ignore_errors=True)
        dvc = subprocess.Popen(
            ["dvc", "repro", "books-prepare"],
            cwd=project,
            env=environment(project) | {"SHELL": shutil.which(shell)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        stage = stage_of(project)
        time.sleep(moment)
        os.kill(dvc.pid if victim == "dvc" else stage.pid, signal.SIGKILL)
        if victim == "dvc":
            dvc.wait(10)
        killed = time.monotonic()
        while (left := at_work(project)) and time.monotonic() < killed + GONE_WITHIN:
            time.sleep(0.05)
        moments[moment] = [process.cmdline() for process in left]
        dvc.kill()
        dvc.wait(10)
        for process in at_work(project):
            process.kill()
    assert moments == {moment: [] for moment in moments}


def test_a_program_whose_parent_is_another_than_it_was_told_ends_before_it_imports_anything(tmp_path):
    (tmp_path / "work.py").write_text("from pathlib import Path\nPath('begun').touch()\n")
    for parent, status in ((os.getpid(), 0), (1, -signal.SIGKILL)):
        command = [sys.executable, "-m", "llmrecipe.launch.child", str(parent), "work"]
        environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
        assert subprocess.run(command, cwd=tmp_path, env=environment).returncode == status
        assert (tmp_path / "begun").exists() == (status == 0)
        (tmp_path / "begun").unlink(missing_ok=True)
