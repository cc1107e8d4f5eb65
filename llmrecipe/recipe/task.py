"""What a pretrained model learns to do for somebody."""

from collections.abc import Iterator
from typing import ClassVar, Literal

import attrs

from llmrecipe.recipe.chat_tasks import Instructions, Preferences
from llmrecipe.recipe.kinds import Task
from llmrecipe.recipe.networks.network import Network
from llmrecipe.recipe.schema import define
from llmrecipe.recipe.validators import between, not_empty

__all__ = [
    "Classification",
    "Embeddings",
    "Instructions",
    "NamedEntities",
    "Preferences",
    "QuestionAnswering",
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

    file_ends: ClassVar[tuple[str, ...]] = TABLES

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
        known = {"one": ("accuracy", "loss"), "several": ("micro_f1", "accuracy"), "score": ("mean_squared_error",)}
        return known[self.answer]

    @property
    def numbers(self) -> tuple[str, ...]:
        """The mean over classes, or the correlation."""
        return ("pearson",) if self.answer == "score" else ("macro_f1",)

    @property
    def has_classes(self) -> bool:
        """Whether it is no score."""
        return self.answer != "score"


@define("question_answering")
class QuestionAnswering(Task):
    """The words of a text that answer a question, or that the text has no answer: extractive, as in SQuAD (Rajpurkar
    et al. 2016 and 2018).

    Files that end in `.json` are SQuAD's, of version 1.1 or 2.0. Those that end in `.jsonl` hold a question a line: its
    context, the question, and its answers as `{"text": […], "answer_start": […]}`, counted in characters from 0, both
    lists empty where there is no answer; an `id` and the `title` of the context's article if there is one. All
    questions of an article, or of a context without a title, are learned from or none.

    A context that is too long for `max_length` beside its question is read in windows. A question gets at most half of
    `max_length`. Of the answers that are given for a question the first is learned.
    """

    file_ends: ClassVar[tuple[str, ...]] = (".json", ".jsonl")

    context_field: str = attrs.field(default="context", validator=not_empty)
    """In JSON lines, the key of the text that the answer is in."""

    question_field: str = attrs.field(default="question", validator=not_empty)
    """That of the question."""

    answers_field: str = attrs.field(default="answers", validator=not_empty)
    """That of the answers."""

    unanswerable: bool = False
    """Whether the context of some questions has no answer, as in SQuAD 2.0. Then none is given where the beginning of
    every window is a likelier place for it than any words are, by a threshold of 0."""

    doc_stride: int = attrs.field(default=32, validator=between(0, 10**6))
    """Tokens that a window of a context has in common with the one before it; at least `max_answer_length`, if every
    answer is to be whole in one of them."""

    max_answer_length: int = attrs.field(default=30, validator=between(1, 10**6))
    """Tokens that an answer has at most."""

    @property
    def scores(self) -> tuple[str, ...]:
        """F1 of the words that an answer shares with the right one, and whether it is that."""
        return ("f1", "exact_match")

    @property
    def numbers(self) -> tuple[str, ...]:
        """F1 of the questions that have an answer, and the share of the others to which none was given."""
        return ("has_answer_f1", "no_answer_accuracy") if self.unanswerable else ()

    def misfits(self, network: Network) -> Iterator[tuple[str, str]]:
        """Why such a network can't learn it, and what can."""
        if not network.reads_both_sides:
            yield (
                "start",
                f"{type(network).__name__} reads a word before what comes after it, which says whether an answer "
                "begins there; use an encoder, such as Bert or ModernBert",
            )
        elif getattr(network, "type_vocab_size", 2) < 2:
            yield (
                "start",
                "the network has one type of tokens (type_vocab_size), so it can't tell a question from its context; "
                "use one with two",
            )


@define("embeddings")
class Embeddings(Task):
    """Which texts belong together: a vector for each, so that a query is near to what it looks for.

    For retrieval (a question, and the page that answers it) and recommendation (what somebody has read, and what they
    read next). Files are tables with a header line (`.csv`, or `.tsv` and `.tab` with tabs) or JSON lines (`.jsonl`),
    one pair a row. A query may have several positives, in a row each.

    Every query learns to tell its positive from those of the other pairs that a rank reads with it (InfoNCE, van den
    Oord et al. 2018, with negatives in the batch, Henderson et al. 2017): the cross-entropy of the softmax over the
    cosines of their vectors, divided by the temperature. So `parallelism.micro_batch_size` decides how many negatives
    it has. What is known there to be a right answer to the query is none of them.

    The vector of a text is the mean of the states of its tokens, of a decoder the state of the last one, which alone
    has read them all; its length is 1.
    """

    file_ends: ClassVar[tuple[str, ...]] = TABLES

    query_field: str = attrs.field(default="query", validator=not_empty)
    """The column or key of what looks for something."""

    positive_field: str = attrs.field(default="positive", validator=not_empty)
    """That of what it is to find."""

    negative_field: str | None = attrs.field(default=None, validator=attrs.validators.optional(not_empty))
    """That of what it is easily taken for (a hard negative); all queries that are read with it learn from it. None for
    pairs alone."""

    temperature: float = attrs.field(default=0.05, validator=between(0.001, 1_000))
    """What the cosines are divided by: the lower, the more the negatives count that are nearest. 0.05 is that of SimCSE
    (Gao et al. 2021)."""

    @property
    def scores(self) -> tuple[str, ...]:
        """How far up in the ranking what is right stands."""
        return ("ndcg_at_10", "recall_at_1", "recall_at_10", "mrr")

    def pooling(self, network: Network) -> Literal["mean", "last"]:
        """How the states of a text's tokens become its vector."""
        return "mean" if network.reads_both_sides else "last"
