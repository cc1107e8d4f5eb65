"""Recipes that were edited after they had been planned."""

import re
from pathlib import Path

import pytest
from paths import RECIPES

from llmrecipe.cli.main import main

RECIPE = Path("recipes/quickstart.py")


@pytest.fixture(autouse=True)
def _planned(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path(".dvc").mkdir()
    RECIPE.parent.mkdir()
    RECIPE.write_text((RECIPES / "quickstart.py").read_text())
    assert main(["plan", "quickstart"]) == 0
    capsys.readouterr()


def edit(old: str, new: str) -> None:
    text = RECIPE.read_text()
    assert old in text
    RECIPE.write_text(text.replace(old, new))


def warned(capsys) -> str:
    assert main(["check", "quickstart"]) == 0
    return capsys.readouterr().err


def test_right_after_planning_nothing_is_said(capsys):
    assert warned(capsys) == ""


def test_a_recipe_that_was_never_planned_has_no_older_plan(capsys):
    Path("dvc.yaml").unlink()
    assert warned(capsys) == ""


def test_what_differs_is_named_with_both_values(capsys):
    edit("seed=7", "seed=8")
    message = warned(capsys)
    assert "warning: quickstart: the plan is older than the recipe; `llmrecipe plan recipes/quickstart.py" in message
    assert "small-code-train.training.seed: 7 is planned, and the recipe says 8\n" in message
    assert message.count(" is planned") == 1
    assert main(["plan"]) == 0
    capsys.readouterr()
    assert warned(capsys) == ""


def test_stages_that_come_and_go_are_named(capsys):
    edit('name="small-code"', 'name="other"')
    message = warned(capsys)
    assert "other-train: not planned\n" in message
    assert "small-code-train: planned, and the recipe no longer asks for it\n" in message
    assert re.search(r"\n  and \d+ more\n", message)


def test_a_report_says_so_before_its_numbers_or_what_is_missing(capsys):
    edit("seed=7", "seed=8")
    assert main(["report", "quickstart"]) == 1
    warning, missing = capsys.readouterr().err.split("error: ")
    assert "small-code-train.training.seed: 7 is planned, and the recipe says 8" in warning
    assert "no such file" in missing


def test_a_setting_of_an_experiment_is_a_difference_too(capsys):
    params = Path("params/small-code.yaml")
    params.write_text(params.read_text().replace("seed: 7", "seed: 9"))
    assert "small-code-train.training.seed: 9 is planned, and the recipe says 7" in warned(capsys)
