"""`llmrecipe run`: from a recipe to its report, with a stand-in for DVC."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from paths import RECIPES, ROOT, SUPPORT

from llmrecipe.cli.main import main

ON = "goes on with what is left, a training from its last checkpoint\n"


@pytest.fixture
def project(tmp_path):
    (tmp_path / ".dvc").mkdir()
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes/quickstart.py").write_text((RECIPES / "quickstart.py").read_text())
    return tmp_path


def started(project: Path, does: str, *arguments: str) -> subprocess.Popen:
    """`llmrecipe run` with a DVC that succeeds at nothing, fails or sleeps, as a shell starts it: in its own group."""
    path = os.pathsep.join([str(SUPPORT / "fake_dvc"), str(ROOT)])
    return subprocess.Popen(
        [sys.executable, "-m", "llmrecipe", "run", *arguments],
        cwd=project,
        env={**os.environ, "FAKE_DVC": does, "PYTHONPATH": path, "PATH": "/usr/bin:/bin"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def ended(process: subprocess.Popen) -> tuple[int, str, str]:
    output, errors = process.communicate(timeout=60)
    return process.returncode, output, errors


def sleeping(project: Path) -> tuple[subprocess.Popen, int]:
    """A run whose DVC sleeps, and that DVC's process."""
    process = started(project, "sleep")
    while not (project / "pid").exists() or not (project / "pid").read_text():
        time.sleep(0.05)
    return process, int((project / "pid").read_text())


def test_the_only_recipe_is_checked_and_planned_and_what_it_needs_is_run(project):
    status, output, errors = ended(started(project, "nothing"))
    assert output.startswith("wrote dvc.yaml, params.yaml and 5 files in params/\n")
    called = json.loads((project / "called.json").read_text())
    # DVC finds `llmrecipe`, which isn't in this shell's PATH.
    assert called == {
        "arguments": ["repro", "quickstart-report"],
        "stages": str(Path(sys.executable).parent / "llmrecipe"),
    }
    # This DVC has made nothing that could be reported.
    assert (status, "quickstart/report/metrics.json: no such file" in errors) == (1, True)


def test_nothing_runs_if_a_recipe_is_wrong(project):
    recipe = project / "recipes/quickstart.py"
    recipe.write_text(recipe.read_text().replace("num_attention_heads=4", "num_attention_heads=3"))
    status, output, errors = ended(started(project, "nothing"))
    assert (status, output) == (1, "")
    assert "num_attention_heads" in errors
    assert sorted(each.name for each in project.iterdir()) == [".dvc", "recipes"]


def test_a_stage_that_fails_ends_it_with_what_to_do(project):
    status, _, errors = ended(started(project, "fail", "recipes/quickstart.py"))
    assert status == 1
    assert errors == (
        "ERROR: failed to reproduce 'small-code-train'\n"
        "error: `dvc repro quickstart-report` failed, for the reason above; once that is mended, "
        "`llmrecipe run recipes/quickstart.py` goes on, and does nothing again that is done\n"
    )


def test_ctrl_c_lets_dvc_end_and_says_how_to_go_on(project):
    process, _ = sleeping(project)
    os.killpg(process.pid, signal.SIGINT)
    assert ended(process)[::2] == (130, f"ERROR: interrupted by the user\ninterrupted; the same command {ON}")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_dvc_ends_with_the_run_that_started_it(project, number):
    process, dvc = sleeping(project)
    process.send_signal(number)
    assert ended(process)[0] == -number
    until = time.monotonic() + 5
    while Path(f"/proc/{dvc}").exists():
        assert time.monotonic() < until
        time.sleep(0.05)


def test_a_stage_under_a_plain_dvc_repro_says_how_to_go_on(monkeypatch, capsys):
    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("llmrecipe.stages.runner.run_stage", interrupted)
    assert main(["stage", "train", "--name", "a-train", "--output", "artifacts/a/train"]) == 130
    assert capsys.readouterr().err == f"interrupted; `dvc repro` {ON}"
    monkeypatch.setattr("llmrecipe.cli.clean.run", interrupted)
    assert main(["clean"]) == 130
    assert capsys.readouterr().err == "interrupted\n"
