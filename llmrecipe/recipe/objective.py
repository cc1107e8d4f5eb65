"""What the model learns to predict."""

import attrs

from llmrecipe.recipe.schema import at_least, define


@define("causal_lm", variant=True)
class CausalLM:
    """Predict every token from those before it; documents are packed end to end."""

    sequence_length: int = attrs.field(validator=at_least(2))
    """Tokens the model reads at once; each sequence also holds the one token after them as the last label."""

    restart_at_documents: bool = False
    """Whether a token reads only tokens of its own document, and positions count from the document's beginning, as if
    each document were a sequence by itself (Zhao et al. 2024, intra-document causal masking).

    A document then begins with the end-of-text token that precedes it, from which its first token is predicted; its
    last prediction is the end-of-text token that follows. A document that is cut by the end of a sequence goes on in
    another, from position 0 and without what came before. Evaluation reads its sequences in the same way."""


Objective = CausalLM
