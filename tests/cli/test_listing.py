"""Which recipes a command takes when it is given none, a file's name or a folder."""

import shutil
from pathlib import Path

import pytest
from paths import RECIPES

from llmrecipe.cli.listing import named_or_only, recipes_in
from llmrecipe.cli.main import main

BASE = "from quickstart import quickstart, small_code\nfrom llmrecipe import Recipe\n\n"
OTHER = (
    BASE
    + """\
def other() -> Recipe:
    return Recipe(name="other", models=(small_code(),), measures=quickstart().measures)
"""
)


@pytest.fixture
def project(tmp_path, monkeypatch):
    (tmp_path / ".dvc").mkdir()
    (tmp_path / "recipes").mkdir()
    for name in ("quickstart.py", "machines.py"):
        shutil.copy(RECIPES / name, tmp_path / "recipes")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_only_recipe_of_a_project_is_taken_next_to_modules_and_machines(project, capsys):
    (project / "recipes/parts.py").write_text(
        "from quickstart import small_code\n\ndef wide():\n    return small_code()\n"
    )
    (project / "recipes/_notes.py").write_text(OTHER)
    assert main(["check"]) == 0
    assert capsys.readouterr().out.startswith("quickstart: fine.")
    assert main(["plan"]) == 0
    assert main(["report"]) == 1
    assert "run `dvc repro quickstart-report`" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["check", "plan", "report", "certify"])
def test_several_are_listed_and_none_is_taken(project, capsys, command):
    (project / "recipes/other.py").write_text(OTHER)
    assert main([command]) == 1
    error = "error: recipes/ has several recipes; name one, or recipes/ for all: other, quickstart\n"
    assert capsys.readouterr().err == error


def test_a_folder_stands_for_all_of_its_recipes(project, capsys):
    (project / "recipes/other.py").write_text(OTHER)
    assert main(["check", "recipes/"]) == 0
    assert [line.split(":")[0] for line in capsys.readouterr().out.splitlines()] == ["other", "quickstart"]
    assert main(["report", "recipes"]) == 1
    assert "recipes: has several recipes; name one: other, quickstart" in capsys.readouterr().err


def test_a_file_is_also_found_among_the_recipes(project, capsys):
    (project / "recipes/docs.py").write_text(OTHER.replace("other", "docs"))
    assert main(["check", "docs.py"]) == 0
    assert capsys.readouterr().out.startswith("docs: fine.")
    shutil.move("recipes/docs.py", "docs.py")
    shutil.copy("recipes/quickstart.py", "quickstart.py")
    assert main(["check", "docs.py"]) == 0


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("def a():\n    return Recipe()", ["r"]),
        ("def a() -> 'Recipe':\n    return make()", ["r"]),
        ("def a() -> llmrecipe.Recipe:\n    return make()", ["r"]),
        ("@functools.cache\ndef a(width=3, *, depth=4):\n    return llmrecipe.Recipe()", ["r"]),
        ("def a() -> Recipe: ...\ndef b() -> Recipe: ...", ["recipes/r.py:a", "recipes/r.py:b"]),
        ("def broken(:", ["r"]),
        ("def a(width) -> Recipe: ...", []),
        ("def a(*, width) -> Recipe: ...", []),
        ("def _a() -> Recipe: ...", []),
        ("def a() -> Trained:\n    return Recipe", []),
        ("class Recipe: ...\nRECIPE = Recipe()", []),
        ("", []),
    ],
)
def test_recipes_are_told_by_their_text(project, text, found):
    (project / "recipes/quickstart.py").unlink()
    (project / "recipes/r.py").write_text(text)
    assert recipes_in(Path("recipes")) == found


def test_a_folder_without_recipes_says_what_one_is(project, capsys):
    (project / "recipes/quickstart.py").unlink()
    for command in (["check"], ["check", "recipes/"]):
        assert main(command) == 1
        assert "recipes/ has no recipe: a function without arguments that returns a Recipe" in capsys.readouterr().err


def test_what_is_named_is_taken_as_it_is():
    assert named_or_only(["a", "b.py:c"]) == ["a", "b.py:c"]
