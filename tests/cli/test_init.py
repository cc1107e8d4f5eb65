"""`llmrecipe init` makes a project that works, also with llmrecipe from a wheel, and overwrites nothing."""

import json
import os
import pydoc_data.topics
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from paths import ROOT

from llmrecipe.cli import init
from llmrecipe.cli.main import main

TEXT = "\n\n".join(pydoc_data.topics.topics.values())[:100_000]
"""English with some code in it."""

COMMANDS = ["llmrecipe run first"]


@pytest.fixture
def text(tmp_path, monkeypatch) -> Path:
    """A text file in an otherwise empty folder, the current one."""
    monkeypatch.chdir(tmp_path)
    Path("tale.txt").write_text(TEXT)
    return Path("tale.txt")


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def next_commands(out: str) -> list[str]:
    return [line.strip() for line in out.splitlines() if line.startswith("    ")]


def test_a_new_project_has_a_recipe_for_the_text_that_can_be_planned(text, capsys, monkeypatch):
    assert main(["init", "my tales", "tale.txt"]) == 0
    assert next_commands(capsys.readouterr().out) == ["cd 'my tales'", *COMMANDS]
    monkeypatch.chdir("my tales")
    assert Path(".git").is_dir()
    assert main(["check", "first"]) == 0
    assert main(["plan", "first"]) == 0
    assert "dvc repro first-report" in capsys.readouterr().out


def test_this_folder_is_made_a_project_if_it_is_asked_for(text, capsys):
    assert main(["init", ".", "tale.txt"]) == 0
    assert next_commands(capsys.readouterr().out) == COMMANDS
    assert Path("recipes/first.py").is_file()


def test_without_text_the_first_recipe_learns_python(text, capsys, monkeypatch):
    assert main(["init", "new"]) == 0
    monkeypatch.chdir("new")
    assert "source.PythonStdlib()" in Path("recipes/first.py").read_text()
    assert main(["check", "first"]) == 0


def test_the_last_tenth_of_each_file_is_held_out_and_nothing_is_lost(text):
    Path("long.txt").write_text("é" * 100_000)
    assert main(["init", "new", "tale.txt", "long.txt"]) == 0
    for name in ("tale.txt", "long.txt"):
        train, heldout = (Path(f"new/data/{part}/{name}").read_bytes() for part in ("train", "heldout"))
        assert train + heldout == Path(name).read_bytes()
        assert 0.05 <= len(heldout) / len(train + heldout) <= 0.1
        train.decode()
    assert Path("new/data/train/tale.txt").read_text().endswith("\n\n")


def test_the_model_is_asked_to_continue_words_that_it_has_not_seen(text):
    assert main(["init", "new", "tale.txt"]) == 0
    words = Path("new/data/heldout/tale.txt").read_text().split()
    assert f"prompts=({json.dumps(' '.join(words[:3]))},)" in Path("new/recipes/first.py").read_text()


def test_nothing_is_overwritten_and_all_that_is_in_the_way_is_named(text, capsys):
    (Path("new/recipes")).mkdir(parents=True)
    Path("new/recipes/first.py").write_text("mine")
    Path("new/.gitignore").write_text("mine")
    before = contents(Path("new"))
    assert main(["init", "new", "tale.txt"]) == 1
    err = capsys.readouterr().err
    assert "new/recipes/first.py: is there already" in err
    assert "new/.gitignore: is there already" in err
    assert contents(Path("new")) == before


def test_files_that_are_no_text_are_all_named_and_nothing_is_written(text, capsys):
    Path("latin.txt").write_bytes("é".encode("latin-1"))
    Path("folder").mkdir()
    Path("folder/tale.txt").write_text(TEXT)
    assert main(["init", "new", "tale.txt", "latin.txt", "gone.txt", "folder", "folder/tale.txt"]) == 1
    err = capsys.readouterr().err
    assert "latin.txt: not UTF-8 text" in err
    assert "gone.txt: no such file" in err
    assert "folder: a folder; name the files in it, as in folder/*.txt" in err
    assert "tale.txt: 2 files have this name" in err
    assert not Path("new").exists()


def test_too_little_text_is_refused_before_anything_is_written(text, capsys):
    Path("note.txt").write_text("a few words")
    assert main(["init", "new", "note.txt"]) == 1
    assert "11 bytes of text are too few to learn from" in capsys.readouterr().err
    assert not Path("new").exists()


def test_a_folder_in_a_repository_becomes_part_of_it_and_one_in_a_dvc_project_is_refused(text, capsys):
    subprocess.run(["git", "init", "--quiet"], check=True)
    assert main(["init", "new", "tale.txt"]) == 0
    assert not Path("new/.git").exists()
    assert main(["init", "new/inner", "tale.txt"]) == 1
    assert "inside the DVC project" in capsys.readouterr().err


def test_a_project_ignores_what_this_one_ignores_and_has_its_settings_and_machines():
    for own in (".gitignore", ".dvcignore"):
        template = init.FILES[own]
        assert set((init.TEMPLATES / template).read_text().splitlines()) <= set((ROOT / own).read_text().splitlines())
    for own in (".dvc/config", ".dvc/.gitignore", "recipes/machines.py"):
        template = init.FILES[own]
        assert (init.TEMPLATES / template).read_text() == (ROOT / own).read_text()


def test_init_needs_no_heavy_library(text):
    heavy = {"torch", "transformers", "dvc", "nanotron", "datatrove", "numpy"}
    code = f"import sys; from llmrecipe.cli import init; print({heavy} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "set()\n"


@pytest.mark.slow
def test_the_wheel_in_a_fresh_environment_makes_a_project_whose_next_commands_work(text):
    home = Path.cwd()
    environment = installed(wheel(home / "wheel"), home / "fresh")

    def run(*command: str, folder: Path = home) -> str:
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    where = run(str(home / "fresh/bin/python"), "-c", "import llmrecipe; print(llmrecipe.__file__)")
    assert Path(where.strip()).is_relative_to(home / "fresh")
    out = run("llmrecipe", "init", "tales", "tale.txt")
    shown = run("bash", "-e", "-c", "\n".join(next_commands(out)))
    reported = run("llmrecipe", "report", "first", folder=home / "tales")
    assert shown.endswith(f"\n\n{reported}\nall numbers: artifacts/first/report/metrics.json\n")
    model = home / "tales/artifacts/small/export/model/model.safetensors"
    assert 0.8e6 < model.stat().st_size < 1.2e6


def wheel(folder: Path) -> Path:
    """The wheel of this clone, built from a copy: what an earlier build has left is no part of it."""
    shutil.copytree(ROOT / "llmrecipe", folder / "llmrecipe", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    command = [sys.executable, "-P", "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(folder)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return next(folder.glob("*.whl"))


def installed(wheel: Path, folder: Path) -> dict[str, str]:
    """Environment variables for a new virtual environment with the wheel in it; what it needs is borrowed from ours."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    packages = next(folder.glob("lib/python3*/site-packages"))
    (packages / "borrowed.pth").write_text("\n".join(path for path in sys.path if path.endswith("-packages")))
    python = str(folder / "bin/python")
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*pip, str(wheel)], check=True)
    paths = [folder / "bin", Path(sys.executable).parent, *map(Path, os.environ["PATH"].split(os.pathsep))]
    return {
        **{name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        "PATH": os.pathsep.join(map(str, paths)),
        "DVC_SITE_CACHE_DIR": str(folder.parent / "site"),
    }
