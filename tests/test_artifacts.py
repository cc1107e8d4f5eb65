"""Folders that we make."""

import subprocess
from pathlib import Path

import pytest

from llmrecipe import artifacts


def test_git_sees_nothing_in_a_folder_of_our_own(tmp_path):
    subprocess.run(["git", "init", "--quiet", str(tmp_path)], check=True)
    folder = artifacts.own_folder(tmp_path / "own")
    (folder / "deep").mkdir()
    (folder / "deep/weights").touch()
    (folder / "run.json").touch()
    # As a kill between two system calls leaves it.
    (folder / ".gitignore").write_text("")
    artifacts.own_folder(folder)
    seen = subprocess.check_output(["git", "-C", str(tmp_path), "status", "--porcelain", "-uall"], text=True)
    assert seen == ""


def test_rules_that_somebody_wrote_stay(tmp_path):
    (tmp_path / ".gitignore").write_text("*.tmp\n")
    artifacts.own_folder(tmp_path)
    assert (tmp_path / ".gitignore").read_text() == "*.tmp\n"


def test_a_file_in_the_place_of_such_a_folder_is_named(tmp_path):
    Path(tmp_path / "own").touch()
    with pytest.raises(NotADirectoryError, match="own"):
        artifacts.own_folder(tmp_path / "own")
