"""Questions beside their contexts as a model reads them: a long context in several windows."""

from collections.abc import Iterator, Sequence

import attrs
from transformers import PreTrainedTokenizerBase

from llmrecipe.engines.tasks.items import Item

NOWHERE = 0
"""The token of a window at which an answer begins and ends that isn't in it: in most tokenizers' words, `[CLS]`."""

Span = tuple[int, int]
"""Characters of a context, from the first to the one after the last."""

Token = tuple[int, Span]
"""A token, and what it is of its text; it may be only a part of a character, or nothing."""


@attrs.frozen(kw_only=True)
class Window(Item):
    """A question with a part of its context; `labels` are the first and the last token of the answer."""

    number: int
    """Which of the windows of its question it is."""

    first: int
    """The place of its first token of the context."""

    spans: tuple[Span, ...]
    """What its tokens of the context are of it."""


@attrs.frozen(kw_only=True)
class Frame:
    """The special tokens that a tokenizer puts around two texts, and the types of tokens that it has for them."""

    parts: tuple[list[int], list[int], list[int]]
    """Those before the first text, between both, and behind the second."""

    types: tuple[list[int], int, list[int], int, list[int]] | None
    """Types of these tokens, and of both texts between them; None if it has none."""

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase) -> "Frame":
        """That of a tokenizer; one that puts nothing between two texts gets a token that ends the first."""
        pair = tokenizer("a", "a")
        texts, tokens = list(pair.sequence_ids(0)), list(pair["input_ids"])
        one, other = texts.index(0), texts.index(1)
        end, last = len(texts) - texts[::-1].index(0), len(texts) - texts[::-1].index(1)
        parts = (tokens[:one], tokens[end:other], tokens[last:])
        known = pair.get("token_type_ids")
        types = None if known is None else (known[:one], known[one], known[end:other], known[other], known[last:])
        if parts[1]:
            return cls(parts=parts, types=types)
        ending = (tokenizer.sep_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id, tokenizer.unk_token_id)
        parts = (parts[0], [next((token for token in ending if token is not None), 0)], parts[2])
        return cls(parts=parts, types=None if types is None else (*types[:2], [types[1]], *types[3:]))

    @property
    def length(self) -> int:
        """Tokens that it has."""
        return sum(map(len, self.parts))

    def around(self, one: Sequence[int], other: Sequence[int]) -> tuple[list[int], list[int] | None, int]:
        """The tokens of two texts within it, their types, and the place of the first of the second text."""
        before, between, behind = self.parts
        tokens, first = [*before, *one, *between, *other, *behind], len(before) + len(one) + len(between)
        if self.types is None:
            return tokens, None, first
        of_before, of_one, of_between, of_other, of_behind = self.types
        types = [*of_before, *[of_one] * len(one), *of_between, *[of_other] * len(other), *of_behind]
        return tokens, types, first


@attrs.frozen(kw_only=True)
class Windows:
    """How questions and contexts become windows."""

    frame: Frame
    """What is around both."""

    max_length: int
    """Tokens of a window."""

    overlap: int
    """Tokens of its context that it has in common with the one before it."""

    @property
    def longest_question(self) -> int:
        """Tokens of a question: half of those that there are. The rest of it is left out."""
        return (self.max_length - self.frame.length) // 2

    def of(
        self, question: Sequence[int], context: Sequence[Token], answer: Span | None, example: int
    ) -> Iterator[Window]:
        """Windows that together have the whole context, each of which has the question.

        Args:
            question: its tokens.
            context: those of its context.
            answer: where in the context the answer is, if there is one.
            example: the question's number.
        """
        question = question[: self.longest_question]
        room = self.max_length - self.frame.length - len(question)
        # The smallest lengths hardly have room for what is to be in common.
        step = max(room - self.overlap, 1)
        found = _tokens_of(context, answer)
        for number, start in enumerate(range(0, max(len(context) - room + step, 1), step)):
            part = context[start : start + room]
            input_ids, token_types, first = self.frame.around(question, [token for token, _ in part])
            is_whole = found is not None and start <= found[0] and found[1] < start + len(part)
            yield Window(
                input_ids=input_ids,
                token_types=token_types,
                labels=[first - start + place for place in found] if found and is_whole else [NOWHERE] * 2,
                example=example,
                number=number,
                first=first,
                spans=tuple(span for _, span in part),
            )


def _tokens_of(context: Sequence[Token], answer: Span | None) -> tuple[int, int] | None:
    """The first and the last token of an answer; None if it has none."""
    if answer is None:
        return None
    start, end = answer
    within = [place for place, (_, (one, other)) in enumerate(context) if max(one, start) < min(other, end)]
    return (within[0], within[-1]) if within else None
