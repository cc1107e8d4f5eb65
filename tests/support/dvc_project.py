"""A project in a folder of its own, with real text, in which real DVC runs the real stages."""

import os
import random
import re
import shutil
import subprocess
import sys
from pathlib import Path

from paths import ROOT

from llmrecipe import dvcfiles
from llmrecipe.machines import DEFAULT
from llmrecipe.plan.planner import plan
from llmrecipe.recipe.machine import Machine
from llmrecipe.recipe.recipe import Recipe

NUMBERS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


def environment(project: Path) -> dict[str, str]:
    """The environment of a command in the project: our own commands first, and DVC's state beside the project."""
    who = {f"GIT_{role}_{what}": "test" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    return {
        **os.environ,
        **who,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "DVC_SITE_CACHE_DIR": str(project.parent / "site"),
        "OMP_NUM_THREADS": "1",
    }


def run(project: Path, *command: str) -> str:
    """What the command prints; it must succeed."""
    done = subprocess.run(command, cwd=project, env=environment(project), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def repro(project: Path, *command: str) -> list[str]:
    """The stages that DVC ran, in order."""
    output = run(project, "dvc", *(command or ("repro",)))
    return re.findall(r"^Running stage '(.+)':$", output, re.MULTILINE)


def write(project: Path, *recipes: Recipe, machine: Machine | None = None) -> None:
    """Plan the recipes in the project, and no others, to run on this machine."""
    machines = None if machine is None else {DEFAULT: machine}
    references = {recipe.name: f"recipes/{recipe.name}.py" for recipe in recipes}
    dvcfiles.write(plan(recipes), project, references=references, machines_of=machines)


def create(project: Path, recipe: Recipe, machine: Machine | None = None) -> Path:
    """A new project with 60 documents of number words, planned and not yet run."""
    books = project / "data" / "books"
    books.mkdir(parents=True)
    words = random.Random(0)
    for number in range(60):
        (books / f"{number}.txt").write_text(" ".join(words.choices(NUMBERS, k=400)))
    for name in (".gitignore", ".dvcignore", ".dvc/config", ".dvc/.gitignore"):
        (project / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, project / name)
    write(project, recipe, machine=machine)
    run(project, "git", "init", "--quiet")
    return project
