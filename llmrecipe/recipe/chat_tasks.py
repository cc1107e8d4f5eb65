"""What is learned from chats, by the head that predicts text."""

from collections.abc import Iterator
from typing import ClassVar, Literal

import attrs

from llmrecipe.recipe.kinds import Task
from llmrecipe.recipe.networks.network import Network
from llmrecipe.recipe.schema import define, kind
from llmrecipe.recipe.validators import between, greater_than, not_empty

PASSED = "pass_at_1"
"""The share of programs that pass, where some are run."""


@kind
class ChatTask(Task):
    """A task that is learned from chats, by the head that predicts text: the model has that still."""

    keeps_text: ClassVar[bool] = True

    file_ends: ClassVar[tuple[str, ...]] = (".jsonl",)

    max_length: int = attrs.field(default=512, validator=between(8, 10**6))
    """Tokens that are read at once; the end of a longer chat is left out."""

    messages_field: str = attrs.field(default="messages", validator=not_empty)
    """The key of a chat's messages."""

    template: Literal["own", "plain"] = "own"
    """The chat template: the `own` one of the tokenizer, or one that is `plain`, `User: …` and `Assistant: …` in lines,
    for tokenizers without, which becomes the model's."""

    def misfits(self, network: Network) -> Iterator[tuple[str, str]]:
        """Why such a network can't learn it, and what can."""
        if network.reads_both_sides:
            yield (
                "start",
                f"{type(network).__name__} reads a token before it predicts it, so it can't write; use a decoder, such "
                "as Llama or Qwen3",
            )


@define("instructions")
class Instructions(ChatTask):
    """What an assistant answers, learned from chats: to sum up, to translate, to talk, to write programs.

    Files are JSON lines (`.jsonl`), a chat a line: its messages as a list of objects with a `role` (`system`, `user` or
    `assistant`) and a `content`. The first may be the system's; then user and assistant take turns, and the assistant
    has the last word. A chat template makes one text of them, of which only the answers are learned, each up to the
    token that ends it.

    A model that has learned it predicts text still, by the head that it had: it can be pruned, distilled and quantized
    like any other, and measured on text as well.
    """

    tests_field: str | None = attrs.field(default=None, validator=attrs.validators.optional(not_empty))
    """Where answers are Python programs, the key of what tests the last one: lines of Python that follow it. Chats that
    are only learned from need none."""

    packing: bool = True
    """Whether chats are read several at once, as many as `max_length` has room for, so that nothing fills up: none
    reads another. Each such sequence counts as one of `global_batch_size`."""

    @property
    def scores(self) -> tuple[str, ...]:
        """The loss by token of answers, what written ones have in common with those of the chats, and whether they
        pass."""
        common = ("exact_match", "f1", "rouge1", "rouge2", "rougeL", "sentence_bleu", "sentence_chrf")
        return ("loss", *common, *(() if self.tests_field is None else (PASSED,)))

    @property
    def numbers(self) -> tuple[str, ...]:
        """Of all answers together."""
        return ("perplexity", "bleu", "chrf")


@define("preferences")
class Preferences(ChatTask):
    """Which of two answers is preferred, learned from pairs of them (DPO, Rafailov et al. 2023, arXiv:2305.18290).

    Files are JSON lines (`.jsonl`), a pair a line: the messages of a chat that ends with a question, as `Instructions`
    has them, and the texts of the answer that was chosen and of the one that was rejected. Pairs of the same chat are
    all learned from or none.

    The loss of a pair is `-log σ(beta · (m - m₀))`: m is by how much more likely the model holds the chosen answer, as
    the difference of the logarithms of both answers' probabilities, and m₀ the same of the model that it starts from.
    That should write answers already, as one that has learned `Instructions` does.

    A step reads both answers of its pairs, so twice as many sequences as `global_batch_size` says.
    """

    chosen_field: str = attrs.field(default="chosen", validator=not_empty)
    """The key of the preferred answer."""

    rejected_field: str = attrs.field(default="rejected", validator=not_empty)
    """That of the other."""

    beta: float = attrs.field(default=0.1, validator=greater_than(0, 1_000))
    """How near to its start the model stays: the more, the less it moves for a preference."""

    @property
    def scores(self) -> tuple[str, ...]:
        """How often the chosen answer is held likelier by token.

        While it learns, the loss of the validation examples decides which step is the best. That knows how clearly a
        pair is told apart and how far the model went for it, and needs the start, which no measure has.
        """
        return ("accuracy",)

    @property
    def numbers(self) -> tuple[str, ...]:
        """By how much it is, in the mean."""
        return ("margin",)
