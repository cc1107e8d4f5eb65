"""A measure taken of a model on a text."""

from llmrecipe.recipe.kinds import Model, Text
from llmrecipe.recipe.measure import Measure
from llmrecipe.recipe.schema import Word, define


@define("measurement")
class Measurement(Word):
    """One model by one measure on one text, which is taken once, whoever asks for it. Made by the planner."""

    model: Model
    """The model."""

    measure: Measure
    """What is measured."""

    text: Text | None
    """The text whose held-out split is read; None for a measure that reads none."""

    @property
    def name(self) -> str:
        """Its name in stage names: `small-code-perplexity`."""
        return f"{self.model.name}-{self.measure.name}"
