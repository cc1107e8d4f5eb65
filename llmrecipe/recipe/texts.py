"""Which text a model is calibrated and measured on, where that isn't said."""

from collections.abc import Sequence

from llmrecipe.recipe.distilled import Distilled
from llmrecipe.recipe.hessians import Hessians
from llmrecipe.recipe.kinds import Model, Text
from llmrecipe.recipe.measure import Measure
from llmrecipe.recipe.model import Calibrated, Quantized
from llmrecipe.recipe.recipe import Recipe


def common_text(models: Sequence[Model]) -> Text | None:
    """The one text that those of the models were trained on that were trained here; None if there isn't one."""
    known = [text for model in models if (text := model.training_text) is not None]
    return known[0] if known and all(text == known[0] for text in known) else None


def calibration_text(made: Calibrated) -> Text | None:
    """The text that calibrates: its own, or the one that the model was trained on; None for one that reads none.

    Raises:
        ValueError: there is neither, which the checks refuse.
    """
    if not made.reads_text:
        return None
    text = made.text or made.model.training_text
    if text is None:
        raise ValueError(f"{made.name} has no text, and {made.model.name} was not trained here")
    return text


def gathered(made: Quantized) -> Hessians | None:
    """What a stage gathers of its text for it; None if it reads the text itself.

    Raises:
        ValueError: it has no text, which the checks refuse.
    """
    text = None if made.propagate_error else calibration_text(made)
    if text is None:
        return None
    return Hessians(model=made.model, text=text, calibration_samples=made.calibration_samples, seed=made.seed)


def distillation_text(distilled: Distilled) -> Text:
    """The text that a student and its teacher read: its own, or the one that they were trained on.

    Raises:
        ValueError: there is neither, which the checks refuse.
    """
    if distilled.training_text is None:
        raise ValueError(f"{distilled.name} has no text, and what it is made from was not trained here")
    return distilled.training_text


def measured_text(recipe: Recipe, measure: Measure) -> Text | None:
    """The text that the models of a recipe are measured on; None for a measure that reads none.

    Raises:
        ValueError: it isn't said, and the models don't share one, which the checks refuse.
    """
    if not measure.reads_text:
        return None
    text = measure.text or common_text(recipe.models)
    if text is None:
        raise ValueError(f"{measure.name} of {recipe.name} has no text, and its models don't share one")
    return text
