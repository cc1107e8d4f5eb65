"""A user's recipe is checked by mypy and by pyright before anything runs, with the types that the package ships."""

import json
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from paths import ROOT

from llmrecipe.cli.main import main

RECIPES = Path(__file__).parent / "recipes"

Findings = dict[int, str]
"""What was said of each line, by its number."""


def by_mypy(*files: Path) -> Findings:
    """In the repository, since mypy looks for packages there, and of these files alone."""
    # A cache of its own: other options than those of `make check` would leave it nothing of that one.
    options = ["--strict", "--follow-imports=silent", "--no-error-summary", "--cache-dir=.mypy_cache/recipes"]
    done = run("mypy", *options, *map(str, files))
    return collected(re.findall(r"^.+?:(\d+): error: (.*)", done, re.MULTILINE))


def by_pyright(*files: Path) -> Findings:
    """With pyright's usual settings, as in an editor."""
    done = json.loads(run("pyright", "--outputjson", "--pythonpath", sys.executable, *map(str, files)))
    return collected((each["range"]["start"]["line"] + 1, each["message"]) for each in done["generalDiagnostics"])


def run(tool: str, *arguments: str) -> str:
    done = subprocess.run([sys.executable, "-m", tool, *arguments], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    return done.stdout


def collected(rows) -> Findings:
    findings: Findings = {}
    for line, message in rows:
        findings[int(line)] = findings.get(int(line), "") + message + "\n"
    return findings


@pytest.fixture(scope="module", params=[by_mypy, by_pyright])
def checker(request):
    return request.param


@pytest.fixture
def first_recipes(tmp_path, monkeypatch) -> list[Path]:
    """The recipes that `llmrecipe init` writes, with their machines."""
    monkeypatch.chdir(tmp_path)
    Path("tale.txt").write_text("once upon a time\n" * 10_000)
    assert main(["init", "tales", "tale.txt"]) == 0
    assert main(["init", "python"]) == 0
    return [tmp_path / "tales/recipes/first.py", tmp_path / "python/recipes/first.py"]


def test_recipes_with_words_of_the_users_own_pass(checker):
    assert checker(RECIPES / "right.py", RECIPES / "words.py") == {}


def test_every_wrong_word_field_and_type_is_found_at_its_line(checker):
    lines = (RECIPES / "wrong.py").read_text().splitlines()
    expected = {number: line.rpartition("  # ")[2] for number, line in enumerate(lines, 1) if "  # " in line}
    findings = checker(RECIPES / "wrong.py")
    assert findings.keys() == expected.keys()
    for line, word in expected.items():
        assert word in findings[line]


def test_the_recipe_that_init_writes_passes(checker, first_recipes):
    # One at a time: they have one name.
    for recipe in first_recipes:
        assert checker(recipe, recipe.with_name("machines.py")) == {}


@pytest.mark.slow
def test_type_checkers_can_follow_an_editable_installation(tmp_path):
    # A .pth file that names a folder they follow (https://peps.python.org/pep-0660/); an import hook they can't run.
    project = tmp_path / "project"
    shutil.copytree(ROOT / "llmrecipe", project / "llmrecipe", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, project)
    build = f"from setuptools.build_meta import build_editable; print(build_editable({str(tmp_path)!r}))"
    done = subprocess.run([sys.executable, "-c", build], cwd=project, capture_output=True, text=True, check=True)
    with zipfile.ZipFile(tmp_path / done.stdout.splitlines()[-1]) as wheel:
        (pth,) = (name for name in wheel.namelist() if name.endswith(".pth"))
        assert wheel.read(pth).decode().split() == [str(project)]
        assert not [name for name in wheel.namelist() if name.endswith(".py")]
