"""Side files that say what an artifact is, so its facts travel with it.

A card is written and read by the strict codec. A field that is added later has a default: old cards stay readable, and
are never rewritten. Parents are named by the digest of their manifest, so another name reruns nothing.
"""

from pathlib import Path
from typing import Any, Literal, TypeVar

from llmrecipe import artifacts, codec
from llmrecipe.errors import StageError
from llmrecipe.lost import LostText
from llmrecipe.recipe.kinds import Objective, Task
from llmrecipe.recipe.networks.network import Network
from llmrecipe.recipe.schema import Word, define

FILE = "card.json"

C = TypeVar("C", bound=Word)

DType = Literal["uint16", "uint32"]


@define("documents_card")
class DocumentsCard(Word):
    """The card of a `documents` artifact."""

    files: dict[str, tuple[str, ...]]
    """By split, the files of its documents, in order."""

    documents: dict[str, int]
    """By split, how many there are."""

    text_bytes: dict[str, int]
    """By split, the UTF-8 bytes of their text."""

    version: int = 1


@define("split_card")
class SplitCard(Word):
    """What a card says of one split of tokens."""

    files: tuple[str, ...]
    """Its token files, in order."""

    tokens: int
    """Tokens in them, end-of-text tokens included."""

    documents: int
    """Documents in them."""

    text_bytes: int
    """UTF-8 bytes of the documents' text."""

    document_files: tuple[str, ...] = ()
    """For held-out text, JSON lines with the `id`, `tokens` and `text_bytes` of each document, in the order of the
    tokens; a file for each of `files`."""

    lost: LostText = LostText()
    """What its tokens lost of the text; for training text, of some of its documents."""


@define("masking_card")
class MaskingCard(Word):
    """What masking needs to know of a tokenizer, as token ids."""

    mask_token_id: int
    """The mask token."""

    special_ids: tuple[int, ...]
    """Tokens that no text becomes, in ascending order."""

    continuing_ids: tuple[int, ...]
    """Tokens that continue a word, in ascending order."""


@define("tokens_card")
class TokensCard(Word):
    """The card of a `tokens` artifact: a corpus in a tokenizer's tokens."""

    dtype: DType
    """Type of a token in the files, little-endian."""

    vocab_size: int
    """Tokens in the vocabulary, special ones included."""

    end_of_text_id: int
    """The token that ends each document."""

    tokenizer: str
    """Digest of the tokenizer's manifest."""

    splits: dict[str, SplitCard]
    """The splits `train` and `heldout`."""

    special_tokens: dict[str, int]
    """Names and ids of the special tokens that no text became and that have no role of their own."""

    masking: MaskingCard | None
    """What masking needs to know; None for a tokenizer without a mask token."""

    version: int = 1


@define("mixture_card")
class MixtureCard(Word):
    """The card of a `mixture` artifact: several corpora in one tokenizer's tokens, and how they are mixed."""

    corpora: tuple[str, ...]
    """Names of the corpora."""

    shares: tuple[float, ...]
    """Sequences drawn from each, relative to the others."""

    tokens: tuple[str, ...]
    """Digests of their tokens' manifests."""

    version: int = 1


@define("hessians_card")
class HessiansCard(Word):
    """The card of a `hessians` artifact."""

    inputs: dict[str, str]
    """By linear layer, under which name the Hessian of what it reads is: layers that read the same share one."""

    samples: int
    """Sequences of which they are the sums."""

    seed: int
    """Decided which."""

    parents: dict[str, str]
    """What they were gathered of: digests of manifests by role."""

    version: int = 1


@define("examples_card")
class ExamplesCard(Word):
    """The card of an `examples` artifact: what a task is learned from and measured on."""

    task: str
    """The tag of the task: `named_entities`."""

    labels: tuple[str, ...]
    """What is predicted, in the order of a model's outputs; empty for a score."""

    examples: dict[str, int]
    """How many there are, by split."""

    version: int = 1


@define("task_card")
class TaskCard(Word):
    """What a card says of the task that a model has learned."""

    task: Task
    """The task, on examples that a stage has read."""

    labels: tuple[str, ...]
    """What it predicts, in the order of its outputs; empty where that is no label."""

    pooling: Literal["mean", "last"] | None = None
    """How the states of a text become its vector, if it gives vectors: their mean, or that of the last token."""


@define("model_card")
class ModelCard(Word):
    """The card of a `checkpoint` or a `model` artifact."""

    network: Network
    """Its shape."""

    objective: Objective
    """What it learned to predict."""

    vocab_size: int
    """Tokens of its tokenizer."""

    end_of_text_id: int
    """The token that ends a document."""

    tokenizer: str
    """Digest of its tokenizer's manifest."""

    made_by: str
    """The kind of stage that made it: `train`."""

    parents: dict[str, str]
    """What it was made from: digests of manifests by role."""

    step: int | None = None
    """The optimizer step after which a run had these weights; None if no run of ours made them, or not the last."""

    embedding_rows: int | None = None
    """Rows of its embedding; None for as many as tokens."""

    sparse: bool = False
    """Whether weights of it were made zero, and have to stay so."""

    task: TaskCard | None = None
    """What it has learned to do beside predicting text, which it has forgotten then."""

    notes: tuple[str, ...] = ()
    """What a reader of its numbers should know: what was dropped, or drawn, when it was taken over."""

    version: int = 1

    @property
    def rows(self) -> int:
        """Rows of its embedding."""
        return self.vocab_size if self.embedding_rows is None else self.embedding_rows


@define("predictions_card")
class PredictionsCard(Word):
    """The card of a `predictions` artifact: what a teacher predicts for the sequences of a run."""

    objective: Objective
    """What it predicts."""

    top_k: int
    """Tokens that are named for each place."""

    seed: int
    """What has decided the order of the sequences, and what is masked."""

    sequences: dict[str, int]
    """How many there are, by split."""

    shares: tuple[float, ...]
    """Sequences drawn from each corpus, relative to the others."""

    teacher: str
    """Digest of the teacher's manifest."""

    tokens: tuple[str, ...]
    """Digests of the manifests of the tokens, one for each corpus."""

    version: int = 1


def write(directory: Path, card: Word) -> None:
    """Write the card of what is in `directory`."""
    artifacts.write_json(directory / FILE, codec.unstructure(card))


def read(directory: Path, cls: type[C]) -> C:
    """The card of what is in `directory`.

    Raises:
        StageError: it has none.
        RecipeError: it is none of this class.
    """
    path = directory / FILE
    try:
        data: Any = artifacts.read_json(path)
    except FileNotFoundError:
        raise StageError(f"{path}: no such file; `dvc repro` makes it") from None
    return codec.structure(data, cls, str(path))
