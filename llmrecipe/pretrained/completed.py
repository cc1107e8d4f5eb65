"""A recipe in which models that were made elsewhere are what their files say."""

from collections.abc import Collection
from pathlib import Path

from llmrecipe.errors import Violation
from llmrecipe.recipe.recipe import Recipe


def completed(recipe: Recipe, root: Path, planned: Collection[str]) -> tuple[Recipe, list[Violation]]:
    """The recipe with the network and the objective of every `PretrainedModel`, and what is wrong with each.

    Args:
        recipe: the recipe, whose fields may be wrong.
        root: the project's folder.
        planned: what stages of the project make, relative to it: a model that isn't there yet may be in one of these,
            and stays as it is.
    """
    raise NotImplementedError
