"""`llmrecipe plan` as a user runs it."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from answering import times_the_floor
from paths import RECIPES

from llmrecipe.cli.main import main

QUICKSTART = (RECIPES / "quickstart.py").read_text()
SECOND = """\
from quickstart import small_code

from llmrecipe import Quantized, Recipe, measure, scheme


def second() -> Recipe:
    base = small_code()
    return Recipe(
        models=(base, Quantized(model=base, scheme=scheme.W8A16())),
        measures=(measure.Perplexity(max_tokens=50_000),),
    )
"""
HEAVY = ("torch", "transformers", "dvc", "datatrove", "nanotron", "llmcompressor", "numpy")


@pytest.fixture
def project(tmp_path, monkeypatch):
    (tmp_path / ".dvc").mkdir()
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "quickstart.py").write_text(QUICKSTART)
    (tmp_path / "recipes" / "machines.py").write_text((RECIPES / "machines.py").read_text())
    (tmp_path / "recipes" / "second.py").write_text(SECOND)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def files(project: Path) -> list[Path]:
    return sorted([*project.glob("[!.]*.yaml"), *project.glob("params/*.yaml")])


def planned(project: Path) -> dict[str, bytes]:
    return {path.relative_to(project).as_posix(): path.read_bytes() for path in files(project)}


def without_python(text: bytes) -> bytes:
    """A file without the version of the Python that planned it."""
    return re.sub(rb"(type: python_stdlib\s+version:).*", rb"\1", text)


def run_fresh(*arguments: str, then: str = "", **environment: str) -> str:
    """What `llmrecipe` prints in a process of its own, and after it the code `then`."""
    code = f"import sys; from llmrecipe.cli.main import main; assert main(sys.argv[1:]) == 0; {then}"
    environment = {**os.environ, **environment}
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=True).stdout


def test_every_stage_of_a_plan_gets_a_line(project, capsys):
    assert main(["plan", "quickstart"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[:-1]] == [
        "python-stdlib-prepare",
        *(f"python-stdlib-bpe-2048-{kind}" for kind in ("tokenizer", "tokenize")),
        *(f"small-code-{kind}" for kind in ("train", "export", "perplexity", "samples")),
        *(f"small-code-w4a16-{kind}" for kind in ("quantize", "perplexity", "samples")),
        "quickstart-report",
    ]
    assert "dvc.yaml" in lines[-1]
    assert lines[-1].endswith("now run `llmrecipe run quickstart`, or `dvc repro quickstart-report`")
    assert planned(project).keys() == {"dvc.yaml", "params.yaml"} | {
        f"params/{owner}.yaml"
        for owner in ("python-stdlib", "python-stdlib-bpe-2048", "small-code", "small-code-w4a16", "quickstart")
    }


def test_planning_again_writes_nothing(project, capsys):
    main(["plan", "quickstart"])
    before = {path: path.stat() for path in files(project)}
    assert main(["plan"]) == 0
    after = {path: path.stat() for path in files(project)}
    assert {path: (status.st_mtime_ns, status.st_ino) for path, status in before.items()} == {
        path: (status.st_mtime_ns, status.st_ino) for path, status in after.items()
    }
    assert "nothing to write" in capsys.readouterr().out


def test_a_plan_keeps_the_recipes_planned_before_unless_it_is_told_otherwise(project):
    main(["plan", "quickstart"])
    alone = planned(project)
    assert main(["plan", "second"]) == 0
    both = planned(project)
    assert b"second-report:" in both["dvc.yaml"]
    assert b"quickstart-report:" in both["dvc.yaml"]
    assert main(["plan"]) == 0
    assert planned(project) == both
    assert main(["plan", "--remove", "second"]) == 0
    assert planned(project) == alone
    assert main(["plan", "second", "--only"]) == 0
    assert b"quickstart" not in planned(project)["dvc.yaml"]


def test_recipes_planned_one_after_the_other_in_any_order_or_together_give_the_same_bytes(project):
    found = []
    for commands in ([["quickstart"], ["second"]], [["second"], ["quickstart"]], [["second", "quickstart"]]):
        for names in commands:
            assert main(["plan", *names]) == 0
        found.append(planned(project))
        for path in files(project):
            path.unlink()
    assert found[0] == found[1] == found[2]


def test_a_recipe_that_is_not_planned_can_not_be_removed_and_the_near_one_is_named(project, capsys):
    main(["plan", "quickstart"])
    before = planned(project)
    assert main(["plan", "--remove", "quickstrat"]) == 1
    assert "did you mean 'quickstart'" in capsys.readouterr().err
    assert planned(project) == before


def test_a_recorded_recipe_that_no_longer_loads_is_a_warning_and_keeps_its_stages(project, capsys):
    main(["plan", "quickstart", "second"])
    before = planned(project)
    (project / "recipes" / "second.py").write_text("def second(:\n")
    assert main(["plan", "quickstart"]) == 0
    assert "second" in capsys.readouterr().err
    assert planned(project) == before


def test_a_broken_recipe_is_an_error_where_it_shares_a_value_that_changes(project, capsys):
    main(["plan", "quickstart", "second"])
    before = planned(project)
    (project / "recipes" / "second.py").write_text("def second(:\n")
    path = project / "recipes" / "quickstart.py"
    path.write_text(path.read_text().replace("seed=7", "seed=8"))
    assert main(["plan", "quickstart"]) == 1
    errors = capsys.readouterr().err
    assert "small-code-train would change" in errors
    assert "'second'" in errors
    assert planned(project) == before


def test_a_changed_recipe_is_refused_while_another_that_was_planned_has_the_old_value(project, capsys):
    (project / "recipes" / "first.py").write_text(QUICKSTART.replace("quickstart", "first"))
    assert main(["plan", "quickstart", "first"]) == 0
    path = project / "recipes" / "quickstart.py"
    path.write_text(path.read_text().replace("seed=7", "seed=8"))
    assert main(["plan", "quickstart"]) == 1
    errors = capsys.readouterr().err
    assert "quickstart.models[0]" in errors
    assert "first.models[0]" in errors
    assert "seed: " in errors


def test_a_machine_is_written_and_kept_and_reset(project):
    main(["plan", "quickstart"])
    without = planned(project)
    assert main(["plan", "--machine", "slurm_cluster"]) == 0
    assert yaml.safe_load(planned(project)["params.yaml"])["machine"]["default"]["text_on"]["type"] == "slurm"
    assert main(["plan", "--machine", "small-code=here"]) == 0
    assert yaml.safe_load(planned(project)["params.yaml"])["machine"].keys() == {"default", "small-code"}
    assert main(["plan", "second"]) == 0
    assert yaml.safe_load(planned(project)["params.yaml"])["machine"].keys() == {"default", "small-code"}
    assert main(["plan", "--only", "quickstart", "--machine", "here"]) == 0
    assert yaml.safe_load(planned(project)["params.yaml"])["machine"].keys() == {"default"}
    assert planned(project)["dvc.yaml"] == without["dvc.yaml"]


def test_a_hundred_recipes_are_planned_in_little_time(project):
    for number in range(100):
        text = QUICKSTART.replace("quickstart", f"variant_{number}").replace("seed=7", f"seed={number}")
        text = text.replace('name="small-code"', f'name="small-code-{number}"')
        (project / "recipes" / f"variant_{number}.py").write_text(text)
    command = [sys.executable, "-m", "llmrecipe", "plan", *(f"variant_{number}" for number in range(100))]
    assert times_the_floor(command, attempts=1) < 40


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
    (project / "recipes" / "third.py").write_text(QUICKSTART.replace("def quickstart", "def third").replace("7", "9"))
    assert main(["plan", "quickstart", "third"]) == 1
    assert "'quickstart'" in capsys.readouterr().err
    assert planned(project) == {}


def test_without_a_dvc_project_the_user_is_told_to_make_one(project, capsys):
    (project / ".dvc").rmdir()
    assert main(["plan", "quickstart"]) == 1
    assert "llmrecipe init" in capsys.readouterr().err
    assert planned(project) == {}


def test_the_committed_files_are_what_the_quickstart_plans_to(project):
    root = RECIPES.parent
    main(["plan", "quickstart"])
    assert {path.relative_to(root).as_posix(): without_python(path.read_bytes()) for path in files(root)} == {
        name: without_python(text) for name, text in planned(project).items()
    }


def test_hash_seeds_do_not_change_a_byte(project):
    found = []
    for seed in ("1", "2"):
        run_fresh("plan", "quickstart", PYTHONHASHSEED=seed)
        found.append(planned(project))
        for path in files(project):
            path.unlink()
    assert found[0] == found[1]
    assert len(found[0]) == 7


@pytest.mark.parametrize("command", ["plan", "check"])
def test_planning_imports_no_engine_and_not_dvc(project, command):
    assert run_fresh(command, "quickstart", then=f"print(set({HEAVY}) & set(sys.modules))").splitlines()[-1] == "set()"


@pytest.mark.parametrize("arguments", [["plan", "quickstart"], ["check", "quickstart"], ["plan", "--help"]])
def test_an_answer_costs_little_more_than_what_it_imports(project, arguments):
    assert times_the_floor([sys.executable, "-m", "llmrecipe", *arguments]) < 6
