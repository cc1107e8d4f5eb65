"""What is measured on every model of the recipe."""

import attrs

from llmrecipe.recipe.schema import at_least, define, not_empty


@define("perplexity")
class Perplexity:
    """exp of the mean cross-entropy of a held-out token, and the same in bits per byte of text."""

    max_tokens: int = attrs.field(default=100_000, validator=at_least(1))
    """Held-out tokens that are read, from the start of the split."""


@define("samples")
class Samples:
    """Greedy completions, for a person to read."""

    prompts: tuple[str, ...] = attrs.field(validator=not_empty)
    """What the model continues."""

    max_new_tokens: int = attrs.field(default=48, validator=at_least(1))
    """Length of a completion."""


Measure = Perplexity | Samples
