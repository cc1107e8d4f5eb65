"""`llmrecipe plan` as a user runs it."""

import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from paths import RECIPES

from llmrecipe.cli.main import main

QUICKSTART = (RECIPES / "quickstart.py").read_text()
HEAVY = ("torch", "transformers", "dvc", "datatrove", "nanotron", "llmcompressor", "numpy")


@pytest.fixture
def project(tmp_path, monkeypatch):
    (tmp_path / ".dvc").mkdir()
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "quickstart.py").write_text(QUICKSTART)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def planned(project: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in project.glob("*.yaml")}


def run_fresh(*arguments: str, then: str = "", **environment: str) -> str:
    """What `llmrecipe` prints in a process of its own, and after it the code `then`."""
    code = f"import sys; from llmrecipe.cli.main import main; assert main(sys.argv[1:]) == 0; {then}"
    environment = {**os.environ, **environment}
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=True).stdout


def test_the_default_is_the_quickstart_and_every_stage_gets_a_line(project, capsys):
    assert main(["plan"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[:-1]] == [
        "python-stdlib-prepare",
        *(f"quickstart-{kind}" for kind in ("tokenizer", "tokenize", "pretrain", "export", "quantize", "evaluate")),
    ]
    assert "dvc.yaml" in lines[-1]
    assert "`dvc repro`" in lines[-1]
    assert planned(project).keys() == {"dvc.yaml", "params.yaml"}


def test_planning_again_writes_nothing(project, capsys):
    main(["plan"])
    before = {path: path.stat() for path in project.glob("*.yaml")}
    assert main(["plan"]) == 0
    after = {path: path.stat() for path in project.glob("*.yaml")}
    assert {path: (status.st_mtime_ns, status.st_ino) for path, status in before.items()} == {
        path: (status.st_mtime_ns, status.st_ino) for path, status in after.items()
    }
    assert "nothing to write" in capsys.readouterr().out


def test_several_recipes_are_planned_together_and_one_alone_afterwards(project):
    (project / "recipes" / "second.py").write_text(
        QUICKSTART.replace("def quickstart", "def second").replace('name="quickstart"', 'name="second"')
    )
    main(["plan"])
    alone = planned(project)
    assert main(["plan", "quickstart", "recipes/second.py:second"]) == 0
    assert b"second-pretrain:" in planned(project)["dvc.yaml"]
    assert main(["plan"]) == 0
    assert planned(project) == alone


def test_everything_wrong_with_every_recipe_is_said_at_once_and_nothing_is_written(project, capsys):
    recipes = project / "recipes"
    wrong = re.sub(r"num_attention_heads=\d+", "num_attention_heads=7", QUICKSTART)
    wrong = re.sub(r"seed=\d+", "seed=-1", wrong)
    (recipes / "wrong.py").write_text(wrong)
    (recipes / "broken.py").write_text("def broken(:\n")
    assert main(["plan", "wrong", "quickstart", "broken", "missing"]) == 1
    errors = capsys.readouterr().err
    assert all(part in errors for part in ("num_attention_heads", "seed", "SyntaxError", "missing.py: no such recipe"))
    assert planned(project) == {}


def test_recipes_that_can_not_be_planned_together_are_an_error_without_a_traceback(project, capsys):
    assert main(["plan", "quickstart", "recipes/quickstart.py"]) == 1
    assert "two recipes are named 'quickstart'" in capsys.readouterr().err
    assert planned(project) == {}


def test_without_a_dvc_project_the_user_is_told_to_make_one(project, capsys):
    (project / ".dvc").rmdir()
    assert main(["plan"]) == 1
    assert "dvc init" in capsys.readouterr().err
    assert planned(project) == {}


def test_the_committed_files_are_what_the_quickstart_plans_to(project):
    root = RECIPES.parent
    main(["plan"])
    assert {name: (root / name).read_bytes() for name in ("dvc.yaml", "params.yaml")} == planned(project)


def test_hash_seeds_do_not_change_a_byte(project):
    found = []
    for seed in ("1", "2"):
        run_fresh("plan", PYTHONHASHSEED=seed)
        found.append(planned(project))
        for path in project.glob("*.yaml"):
            path.unlink()
    assert found[0] == found[1]
    assert len(found[0]) == 2


@pytest.mark.parametrize("command", ["plan", "check"])
def test_planning_imports_no_engine_and_not_dvc(project, command):
    assert run_fresh(command, then=f"print(set({HEAVY}) & set(sys.modules))").splitlines()[-1] == "set()"


@pytest.mark.parametrize("arguments", [["plan"], ["check"], ["plan", "--help"]])
def test_answers_take_less_than_half_a_second_of_cpu_time(project, arguments):
    seconds = []
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert "quickstart" in run_fresh(*arguments)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(seconds) < 0.5
