"""One model, measured."""

from llmrecipe.recipe.kinds import Model, Text
from llmrecipe.recipe.measure import Measure
from llmrecipe.recipe.schema import Word, define


@define("measurement")
class Measurement(Word):
    """What a measure says of a model on a text; whatever asks for the same one shares it. Made by the planner."""

    model: Model
    """The model."""

    measure: Measure
    """What is measured of it."""

    text: Text | None
    """The text whose held-out split is read; None if the measure reads none."""

    @property
    def name(self) -> str:
        """Its name in stage names."""
        return f"{self.model.name}-{self.measure.name}"
