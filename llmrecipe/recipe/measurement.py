"""A measure taken of a model on a text."""

from llmrecipe.recipe.evolve import evolve
from llmrecipe.recipe.kinds import Model, Text
from llmrecipe.recipe.measure import Measure
from llmrecipe.recipe.schema import Word, define


@define("measurement")
class Measurement(Word):
    """One model by one measure on one text, taken once however many recipes ask for it. Made by the planner."""

    model: Model
    """The model."""

    measure: Measure
    """What is measured."""

    text: Text | None
    """The text whose held-out split is read; None for a measure that reads none."""

    @classmethod
    def of(cls, model: Model, measure: Measure, text: Text | None) -> "Measurement":
        """The measurement that a measure asks for, in one form whether its text and name are given or left open."""
        return cls(model=model, measure=evolve(measure, text=None, name=measure.name), text=text)

    @property
    def name(self) -> str:
        """Its name in stage names: `small-code-perplexity`."""
        return f"{self.model.name}-{self.measure.name}"
