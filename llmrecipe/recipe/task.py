"""What a pretrained model learns to do for somebody."""

from collections.abc import Iterator
from typing import ClassVar, Literal

import attrs

from llmrecipe.recipe.kinds import Task
from llmrecipe.recipe.networks.network import Network
from llmrecipe.recipe.schema import define, kind
from llmrecipe.recipe.validators import between, greater_than, not_empty

__all__ = [
    "Classification",
    "Instructions",
    "NamedEntities",
    "Preferences",
]

TABLES = (".jsonl", ".csv", ".tsv", ".tab")
"""How files of texts with their labels end."""

CASES = ("lower", "capitalized", "upper", "mixed")
"""How a word is written, by the token type that says so: `word` or `7`, `Word`, `WORD`, `woRd`."""


@define("named_entities")
class NamedEntities(Task):
    """The names of persons, places and the like in a text: every word gets a tag, `B-PER`, `I-PER` or `O`.

    Files that end in `.jsonl` hold a sentence a line, its words and their tags as lists. All others hold a word a
    line, its tag in the last column, and a blank line behind each sentence (CoNLL); a line `-DOCSTART-` begins a
    document. Tags may be IOB (IOB1), IOB2 or IOBES (BIOES, BILOU); they are read as IOB2. Where documents are marked,
    a model reads as many sentences of one at once as `max_length` has room for, so that each has its context.

    The tag of a word is predicted at the first of its tokens. Of all sequences of tags that IOB2 allows, the likeliest
    is taken (Viterbi).
    """

    words_field: str = attrs.field(default="tokens", validator=not_empty)
    """In JSON lines, the key of the words."""

    tags_field: str = attrs.field(default="tags", validator=not_empty)
    """In JSON lines, the key of the tags."""

    case_as_token_types: bool = False
    """Whether an encoder whose tokenizer lowers all letters is told how a word is written: lower, Capitalized, UPPER,
    or mixed, as four kinds of token types. Names are known by their case. Only for networks that have token types, as
    `Bert`; a program that uses the model without that (`Tagger` has it) reads every word as a lower one."""

    @property
    def scores(self) -> tuple[str, ...]:
        """F1 of entities, and the share of the words whose tag is right."""
        return ("entity_f1", "word_micro_f1")

    @property
    def numbers(self) -> tuple[str, ...]:
        """The means over classes."""
        return ("entity_macro_f1", "word_macro_f1")

    @property
    def has_classes(self) -> bool:
        """Tags are."""
        return True

    @property
    def token_types(self) -> int | None:
        """Four, one for each way to write a word, if it is told."""
        return len(CASES) if self.case_as_token_types else None

    def misfits(self, network: Network) -> Iterator[tuple[str, str]]:
        """Why such a network can't learn it, and what can."""
        if not network.reads_both_sides:
            yield (
                "start",
                f"{type(network).__name__} reads a word before what comes after it, which names depend on; use an "
                "encoder, such as Bert or ModernBert",
            )
        elif self.case_as_token_types and not network.has_token_types:
            yield "task.case_as_token_types", f"True, and {type(network).__name__} has no token types; leave it out"


@define("classification")
class Classification(Task):
    """What kind of text this is: one label of several, several at once, or a score.

    Files are tables with a header line (`.csv`, or `.tsv` and `.tab` with tabs) or JSON lines (`.jsonl`), one text
    a row.
    """

    text_field: str = attrs.field(default="text", validator=not_empty)
    """The column or key of the text."""

    second_text_field: str | None = attrs.field(default=None, validator=attrs.validators.optional(not_empty))
    """That of another text, where two are compared; None for one text alone."""

    label_field: str = attrs.field(default="label", validator=not_empty)
    """That of the label."""

    answer: Literal["one", "several", "score"] = "one"
    """What a text has: one label; any number of labels, as a list in JSON, and separated by `|` in a table; or a
    number."""

    def misfits(self, network: Network) -> Iterator[tuple[str, str]]:
        """Why such a network can't learn it, and what can."""
        if self.second_text_field is not None and getattr(network, "type_vocab_size", 2) < 2:
            yield (
                "task.second_text_field",
                f"{self.second_text_field!r}, and the network has one type of tokens (type_vocab_size), so it can't "
                "tell both texts apart; use one with two",
            )

    @property
    def scores(self) -> tuple[str, ...]:
        """What counts of an answer."""
        known = {"one": ("accuracy",), "several": ("micro_f1", "accuracy"), "score": ("mean_squared_error",)}
        return known[self.answer]

    @property
    def numbers(self) -> tuple[str, ...]:
        """The mean over classes, or the correlation."""
        return {"one": ("macro_f1", "loss"), "several": ("macro_f1",), "score": ("pearson",)}[self.answer]

    @property
    def has_classes(self) -> bool:
        """Whether it is no score."""
        return self.answer != "score"


@kind
class ChatTask(Task):
    """A task that is learned from chats, by the head that predicts text: the model has that still."""

    keeps_text: ClassVar[bool] = True

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
        return ("loss", *common, *(() if self.tests_field is None else ("pass_at_1",)))

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
