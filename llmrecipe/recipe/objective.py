"""What the model learns to predict."""

import attrs

from llmrecipe.recipe.schema import at_least, define


@define("causal_lm", variant=True)
class CausalLM:
    """Predict every token from those before it; documents are packed end to end."""

    sequence_length: int = attrs.field(validator=at_least(2))
    """Tokens the model reads at once; each sequence also holds the one token after them as the last label."""


Objective = CausalLM
