"""What the documentation shows is what is there."""

import itertools
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest
import yaml
from paths import ROOT

import llmrecipe
from llmrecipe import Recipe, evolve
from llmrecipe.cli.main import COMMANDS, main
from llmrecipe.loader import load
from llmrecipe.plan.planner import plan
from llmrecipe.recipe import checks

PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), ROOT / "data/README.md", ROOT / "benchmarks/README.md"]
)


def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text_of(page), re.DOTALL | re.MULTILINE)


def recipe_files(page: str) -> dict[str, str]:
    """The recipe files that a page shows whole, by the name of their last recipe."""
    shown = {}
    for block in blocks(page, "python"):
        functions = re.findall(r"^def (\w+)\(\) -> Recipe:", block, re.MULTILINE)
        if functions and "from llmrecipe import" in block:
            shown[functions[-1]] = block
    return shown


def test_the_quickstart_is_shown_as_it_is():
    assert recipe_files("README.md")["quickstart"] == (ROOT / "recipes/quickstart.py").read_text(encoding="utf-8")


def test_the_readme_can_be_read_in_minutes():
    assert len((ROOT / "README.md").read_bytes()) < 9_000


@pytest.mark.parametrize(
    ("page", "recipes"),
    [("README.md", {"quickstart", "slower", "formats", "books"}), ("docs/data.md", {"docstrings"})],
)
def test_every_recipe_shown_can_work(page, recipes, tmp_path):
    found = {}
    for name, text in recipe_files(page).items():
        (tmp_path / f"{name}.py").write_text(text, encoding="utf-8")
    for file in tmp_path.glob("*.py"):
        for name in re.findall(r"^def (\w+)\(\) -> Recipe:", file.read_text(encoding="utf-8"), re.MULTILINE):
            found[name] = load(f"{file}:{name}")

    assert found.keys() == recipes
    assert {name: checks.violations(recipe) for name, recipe in found.items()} == {name: [] for name in recipes}
    assert plan(list(found.values())).stages


def test_the_recipes_shown_train_the_small_code_model_once(tmp_path):
    for name, text in recipe_files("README.md").items():
        (tmp_path / f"{name}.py").write_text(text, encoding="utf-8")

    stages = plan([load(f"{tmp_path}/formats.py:{name}") for name in ("slower", "formats")]).stages

    assert [stage.name for stage in stages if stage.kind == "train"] == ["small-code-train", "small-code-slow-train"]


def test_the_errors_shown_are_those_that_are_found():
    base, _ = load("quickstart", ROOT / "recipes").models
    with attrs.validators.disabled():
        wrong = evolve(base, parallelism__tensor=3, training__global_batch_size=30)
        found = checks.violations(Recipe(name="broken", models=(wrong,)))

    assert "".join(f"{violation}\n" for violation in found) in text_of("README.md")


def test_words_of_ones_own_are_planned_like_others(tmp_path):
    (tmp_path / ".dvc").mkdir()
    (tmp_path / "recipes").mkdir()
    shutil.copy(ROOT / "recipes/quickstart.py", tmp_path / "recipes")
    shown = re.findall(
        r"`recipes/(\w+\.py)`[^`]*```python\n(.*?)^```$", text_of("docs/extending.md"), re.DOTALL | re.MULTILINE
    )
    for name, text in shown:
        (tmp_path / "recipes" / name).write_text(text, encoding="utf-8")

    # A process of its own: a tag is given once.
    command = [sys.executable, "-m", "llmrecipe", "plan", "souped"]
    planned = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)

    assert planned.returncode == 0, planned.stderr
    sections = yaml.safe_load((tmp_path / "params/small-code-soup.yaml").read_text(encoding="utf-8"))
    assert "recipes/soup.py" in sections["small-code-soup-average"]["extensions"]
    assert "recipes/entropy.py" in sections["small-code-soup-entropy"]["extensions"]


def test_the_stages_listed_are_those_of_the_quickstart():
    listed = set(re.findall(r"^\| `([\w-]+)` \|", text_of("docs/dvc.md").partition("## Values")[0], re.MULTILINE))
    planned = {stage.name for stage in plan([load("quickstart", ROOT / "recipes")]).stages}

    assert listed | {"small-code-w4a16-perplexity", "small-code-w4a16-samples"} == planned


def headings(path: Path) -> set[str]:
    """The names by which GitHub links to a page's headings."""
    titles = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title).strip().lower().replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files_and_headings(page):
    astray = []
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", text_of(page)):
        file, _, heading = target.partition("#")
        path = (ROOT / page).parent / file if file else ROOT / page
        if not path.exists() or (heading and heading not in headings(path)):
            astray.append(target)

    assert astray == []


def commands(page: str) -> Iterator[list[str]]:
    """The calls of `llmrecipe` in a page's blocks and lines."""
    lines = [line for block in blocks(page, "(?:sh)?") for line in block.splitlines()]
    lines += re.findall(
        r"`(llmrecipe [^`]+)`", re.sub(r"^```.*?^```$", "", text_of(page), flags=re.DOTALL | re.MULTILINE)
    )
    for line in lines:
        for call in re.split(r"&&|\|", line.removeprefix("$ ").partition(" #")[0]):
            if re.match(r"\s*llmrecipe [a-z]", call):
                yield shlex.split(call)[1:]


@pytest.mark.parametrize("page", PAGES)
def test_commands_shown_are_understood(page, monkeypatch):
    for command in COMMANDS:
        monkeypatch.setattr(command, "run", lambda options: 0)

    assert [arguments for arguments in commands(page) if main(arguments) != 0] == []


@pytest.mark.parametrize("page", PAGES)
def test_words_shown_are_in_their_rooms(page):
    rooms = "augment|clean|masking|measure|optimizer|place|schedule|scheme|source"
    words = re.findall(rf"(?<![\w/.])({rooms})\.([A-Z]\w*)", text_of(page))

    assert [f"{room}.{word}" for room, word in words if not hasattr(getattr(llmrecipe, room), word)] == []


def modules_listed() -> set[str]:
    """The modules in the tree of docs/architecture.md, as paths below llmrecipe/."""
    tree = text_of("docs/architecture.md").partition("## Rooms")[2].split("```")[1]
    # A line may name several folders, which then hold the same.
    folders: list[list[str]] = []
    found = set()
    for line in tree.partition("llmrecipe/\n")[2].splitlines():
        depth = (len(line) - len(line.lstrip())) // 2 - 1
        names = re.match(r"\s*((?:\w+/\s*)+)", line)
        if names:
            folders[depth:] = [names[1].replace("/", " ").split()]
        names = re.match(r"\s*((?:\w+\.py\s*)+)", line)
        if names:
            found |= {"/".join(path) for path in itertools.product(*folders[:depth], names[1].split())}
    return found


def test_every_module_has_its_line_in_the_architecture():
    package = ROOT / "llmrecipe"
    modules = {path.relative_to(package).as_posix() for path in package.rglob("*.py") if path.name[:2] != "__"}

    assert modules_listed() - {"__init__.py"} == modules


def test_the_order_of_imports_is_that_of_the_contracts():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    contracts = [each for each in project["tool"]["importlinter"]["contracts"] if each["type"] == "layers"]
    shown = text_of("docs/architecture.md").partition("## Imports")[2].split("```")[1]
    chains = re.split(r" inside \w+: ", " ".join(shown.split()))

    assert chains == [
        " > ".join(layer.replace(" | ", ", ") for layer in contract["layers"] if layer != "__main__")
        for contract in contracts
    ]
