"""What the model learns to predict."""

from typing import ClassVar

import attrs

from llmrecipe.recipe.kinds import Masking, Objective
from llmrecipe.recipe.masking import SingleTokens, Spans, share_of_tokens
from llmrecipe.recipe.schema import FieldError, Word, define
from llmrecipe.recipe.validators import between, not_empty


def _share_of_documents(owner: object, attribute: attrs.Attribute, value: float) -> None:
    if not 0 < value <= 1:
        reason = f"must be more than 0 and at most 1, got {value!r}; CausalLM without fill_in_the_middle has none"
        raise FieldError(owner, attribute.name, reason)


@define("fill_in_the_middle")
class FillInTheMiddle(Word):
    """Some documents are read with their middle last, so the model learns to fill it in (Bavarian et al. 2022).

    What a sequence holds of a document is cut at two places, each as likely as any other, between tokens, before the
    first or after the last. With the parts that this gives, any of which may be empty, it becomes one of

        prefix first:  <prefix> prefix <suffix> suffix <middle> middle
        suffix first:  <prefix> <suffix> suffix <middle> prefix middle

    and the end-of-text token still follows (the paper's PSM and, of its two forms of SPM, the one to train on with
    PSM; after packing, which it calls context-level). The paper cuts between characters, this between tokens. Each
    such document makes the sequence three tokens longer, which is cut back to its length at its end.

    What is rearranged, and how, depends on the run's seed, the epoch and the sequence alone, and is another choice in
    every epoch. Held-out text is never rearranged, so losses compare with those of a run without it.
    """

    rate: float = attrs.field(default=0.5, validator=_share_of_documents)
    """Probability with which a document is rearranged; the paper finds no harm to the other order up to 0.9."""

    suffix_first_share: float = attrs.field(default=0.5, validator=between(0, 1))
    """Of those, the share with the suffix first."""

    prefix_token: str = attrs.field(default="<|fim_prefix|>", validator=not_empty)
    """The token before the prefix. All three are special tokens of the tokenizer, which no text encodes to."""

    middle_token: str = attrs.field(default="<|fim_middle|>", validator=not_empty)
    """The token before the middle."""

    suffix_token: str = attrs.field(default="<|fim_suffix|>", validator=not_empty)
    """The token before the suffix."""

    @property
    def tokens(self) -> tuple[str, str, str]:
        """The tokens before prefix, middle and suffix."""
        return (self.prefix_token, self.middle_token, self.suffix_token)


@define("causal_lm")
class CausalLM(Objective):
    """Predict every token from those before it; documents are packed end to end."""

    sequence_length: int = attrs.field(validator=between(2, 10**7))
    """Tokens the model reads at once; each sequence also holds the one token after them as the last label."""

    is_masked: ClassVar[bool] = False

    restart_at_documents: bool = False
    """Whether a token reads only tokens of its own document, and positions count from the document's beginning, as if
    each document were a sequence by itself (Zhao et al. 2024, intra-document causal masking).

    A document then begins with the end-of-text token that precedes it, from which its first token is predicted; its
    last prediction is the end-of-text token that follows. A document that is cut by the end of a sequence continues in
    another, from position 0 and without what came before. Evaluation reads its sequences in the same way."""

    fill_in_the_middle: FillInTheMiddle | None = None
    """How some training documents are rearranged; None leaves all in their order."""

    @property
    def special_tokens(self) -> tuple[str, ...]:
        """Special tokens of the tokenizer that it puts into training sequences."""
        return self.fill_in_the_middle.tokens if self.fill_in_the_middle else ()

    @property
    def shortest_sequence(self) -> int:
        """Tokens that a sequence needs at least: if rearranged, one of each part and the one before it."""
        return 6 if self.fill_in_the_middle else super().shortest_sequence


@define("masked_lm")
class MaskedLM(Objective):
    """Predict masked tokens from those around them (Devlin et al. 2019, BERT).

    Of each sequence the same share of its tokens is masked, to the nearest whole token and at least one; special tokens
    never are. Which ones depends on the run's seed, the epoch and the sequence alone, and so is another choice in every
    epoch.
    """

    is_masked: ClassVar[bool] = True

    mask_rate: float = attrs.field(default=0.15, validator=share_of_tokens)
    """Share of a sequence's tokens that are to be predicted."""

    masking: Masking = SingleTokens()
    """What is masked together."""

    mask_share: float = attrs.field(default=0.8, validator=between(0, 1))
    """Of those tokens, the share that becomes the mask token."""

    random_share: float = attrs.field(default=0.1, validator=between(0, 1))
    """The share that becomes a random token; what is left stays as it is."""


@define("multi_mask_lm")
class MultiMaskLM(Objective):
    """Predict masked spans and, at the same time, the token before each; this project's reading of XL-MLM.

    The spans are those of `MaskedLM(masking=Spans(…))`: several of a sequence, none touching another. The loss is

        mean over masked tokens of −log p(token) + context_weight × mean over spans of −log q(token before the span),

    where q is computed from the state at the span's first masked position by a second head, a dense layer, GELU and
    LayerNorm of its own before the shared output layer. Both means are over the whole batch of a step. A span after a
    special token has nothing before it, and doesn't count in the second. With `context_weight` 0 this is `MaskedLM`
    with spans. Related are SpanBERT's boundary objective (a span's tokens from its borders), XLNet and XLM's MLM.
    """

    is_masked: ClassVar[bool] = True

    mask_rate: float = attrs.field(default=0.15, validator=share_of_tokens)
    """Share of a sequence's tokens that are to be predicted."""

    masking: Spans = Spans()
    """Lengths of the spans."""

    mask_share: float = attrs.field(default=0.8, validator=between(0, 1))
    """Of the spans, the share whose tokens become the mask token."""

    random_share: float = attrs.field(default=0.1, validator=between(0, 1))
    """The share whose tokens become random ones; what is left stays as it is."""

    context_weight: float = attrs.field(default=1.0, validator=between(0, 1_000))
    """λ, the weight of the tokens before the spans."""
