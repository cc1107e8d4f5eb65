"""Words of the user's own, in a module next to the recipes."""

import attrs

from llmrecipe.extend import CustomCleaner, CustomMeasure, MeasuredModel, define


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
