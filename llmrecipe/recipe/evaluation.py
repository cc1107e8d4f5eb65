"""What is measured on every model of the recipe."""

import attrs

from llmrecipe.recipe.schema import at_least, define, not_empty


@define("perplexity")
class Perplexity:
    """How well held-out tokens are predicted, in the way that the objective predicts them.

    CausalLM: exp of the mean cross-entropy of a token, and the same in bits per byte of text. MaskedLM, MultiMaskLM:
    exp of the mean cross-entropy of a masked token, and the share of them whose likeliest token is right. Tokens are
    chosen for masking as in the training, by one seed for every recipe, and all of them become the mask token: one that
    is left as it is would tell the answer. The two kinds of perplexity can't be compared with each other.
    """

    max_tokens: int = attrs.field(default=100_000, validator=at_least(1))
    """Held-out tokens that are read, from the start of the split."""


@define("pseudo_perplexity")
class PseudoPerplexity:
    """exp of the mean cross-entropy of a held-out token when it alone is masked (Salazar et al. 2020).

    For masked objectives. Every token is predicted from all others of its sequence, so that a sequence is read as often
    as it has tokens.
    """

    max_tokens: int = attrs.field(default=10_000, validator=at_least(1))
    """Held-out tokens that are masked, from the start of the split; the time it takes grows with their number × the
    length of a sequence."""


@define("samples")
class Samples:
    """Greedy completions, for a person to read."""

    prompts: tuple[str, ...] = attrs.field(validator=not_empty)
    """What the model continues."""

    max_new_tokens: int = attrs.field(default=48, validator=at_least(1))
    """Length of a completion."""


Measure = Perplexity | PseudoPerplexity | Samples
