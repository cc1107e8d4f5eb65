"""The law of the plan: a value's stages are the same, byte for byte, whatever else is planned with it, in any order."""

from pathlib import Path
from tempfile import TemporaryDirectory

import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import recipe_sets

from llmrecipe import dvcfiles
from llmrecipe.errors import PlanError
from llmrecipe.plan.planner import plan
from llmrecipe.recipe.recipe import Recipe


def written(*recipes: Recipe, before: tuple[Recipe, ...] = ()) -> dict[str, str]:
    """All files of a plan by path, after another in the same project."""
    with TemporaryDirectory() as folder:
        root = Path(folder)
        (root / ".dvc").mkdir()
        for each in filter(None, (before, recipes)):
            references = {recipe.name: f"recipes/{recipe.name}.py" for recipe in each}
            dvcfiles.write(plan(each), root, references=references)
        files = [*root.glob("*.yaml"), *root.glob("params/*.yaml")]
        return {path.relative_to(root).as_posix(): path.read_text() for path in files}


def entries(text: str) -> dict[str, str]:
    """The stages of `dvc.yaml` by name, each as it is written."""
    blocks = text.split("\nstages:\n", 1)[1].split("\n\n")
    return {block.strip().split(":", 1)[0].strip('"'): block.strip("\n") for block in blocks}


def sections(files: dict[str, str]) -> dict[str, str]:
    """The sections of parameters by stage, each as it is written."""
    texts = [text.split("\n\n", 1)[1] for path, text in files.items() if path.startswith("params/")]
    blocks = [block for text in texts for block in text.split("\n\n")]
    return {block.split(":", 1)[0].strip('"'): block.strip("\n") for block in blocks}


def can_be_planned(recipes: tuple[Recipe, ...]) -> bool:
    """Whether no source is drawn that searches the folder of the artifacts, which the checks can't know."""
    try:
        plan(recipes)
    except PlanError:
        return False
    return True


RECIPES = recipe_sets().filter(can_be_planned)


@settings(max_examples=20)
@given(RECIPES)
def test_a_value_s_stages_and_sections_are_the_same_planned_alone_or_together(recipes):
    together = written(*recipes)
    stages, parameters = entries(together["dvc.yaml"]), sections(together)
    assert parameters.keys() == stages.keys() == yaml.safe_load(together["dvc.yaml"])["stages"].keys()
    of_all = set()
    for recipe in recipes:
        alone = written(recipe)
        own = entries(alone["dvc.yaml"])
        assert own.items() <= stages.items()
        assert sections(alone).items() <= parameters.items()
        of_all |= own.keys()
    assert of_all == stages.keys()


@settings(max_examples=20)
@given(RECIPES, st.randoms(use_true_random=False))
def test_the_order_of_recipes_changes_no_byte(recipes, random):
    shuffled = random.sample(list(recipes), len(recipes))
    assert written(*shuffled) == written(*recipes)


@settings(max_examples=20)
@given(RECIPES)
def test_planning_again_changes_no_byte_and_a_value_that_nothing_needs_any_more_is_gone(recipes):
    assert written(*recipes, before=tuple(recipes)) == written(*recipes)
    assert written(recipes[0], before=tuple(recipes)) == written(recipes[0])
