"""Words of the user's own, in a module next to the recipes."""

from collections.abc import Iterator
from typing import ClassVar

import attrs

from llmrecipe.extend import CustomCleaner, CustomMeasure, CustomScores, MeasuredModel, define


@define("keep_long_lines")
class KeepLongLines(CustomCleaner):
    """Keep the lines of some length."""

    characters: int = attrs.field(default=3, validator=attrs.validators.ge(1))
    """Characters of the shortest line that stays."""

    def clean(self, text: str) -> str | None:
        """The lines that stay; None if there are none."""
        return "\n".join(line for line in text.splitlines() if len(line) >= self.characters) or None


@define("vocabulary")
class Vocabulary(CustomMeasure):
    """How many tokens a model knows."""

    def measure(self, model: MeasuredModel) -> dict[str, float]:
        """Their number."""
        return {"tokens": float(model.transformers_model.config.vocab_size)}


@define("lengths")
class Lengths(CustomScores):
    """How long texts are."""

    better: ClassVar = {"characters": "lower"}

    def scores(self, model: MeasuredModel) -> Iterator[dict[str, float]]:
        """Those of each."""
        for text in model.texts(10):
            yield {"characters": len(text)}
