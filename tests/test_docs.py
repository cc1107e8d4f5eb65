"""What the documentation shows is what is there."""

import re

import pytest
from paths import ROOT

from llmrecipe.loader import load
from llmrecipe.recipe import checks

PAGES = ("README.md", "docs/architecture.md", "docs/objectives.md", "data/README.md")


def recipes_shown() -> dict[str, str]:
    """The recipe files in the README, by the name of their function."""
    blocks = re.findall(r"^```python\n(.*?)^```$", (ROOT / "README.md").read_text(), re.DOTALL | re.MULTILINE)
    return {re.search(r"def (\w+)\(\) -> Recipe:", block)[1]: block for block in blocks}


def test_the_quickstart_is_shown_as_it_is():
    assert recipes_shown()["quickstart"] == (ROOT / "recipes/quickstart.py").read_text()


def test_every_recipe_shown_can_work(tmp_path):
    for name, text in recipes_shown().items():
        (tmp_path / f"{name}.py").write_text(text)

    found = {name: checks.violations(load(name, tmp_path)) for name in recipes_shown()}

    assert found == {"quickstart": [], "quickstart_w8a16": [], "books": []}


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files(page):
    targets = re.findall(r"\]\((?!https?:|#)([^)#]+)", (ROOT / page).read_text())

    assert [target for target in targets if not (ROOT / page).parent.joinpath(target).exists()] == []


def test_every_module_has_its_line_in_the_architecture():
    rooms = (ROOT / "docs/architecture.md").read_text().split("```")[3]
    modules = {path.name for path in (ROOT / "llmrecipe").rglob("*.py") if not path.name.startswith("__")}

    assert set(re.findall(r"\w+\.py", rooms)) - {"__init__.py"} == modules
