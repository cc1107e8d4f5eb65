"""The kinds of words: what a field may ask for when there are several sorts of it.

Every word is defined in a room of its kind (`clean.ExactDedup` is a `Cleaner`, `scheme.W4A16` a `Scheme`), or in a
module of the user's own.
"""

from abc import abstractmethod
from collections.abc import Iterator
from typing import TYPE_CHECKING, ClassVar

import attrs

from llmrecipe.recipe.evolve import evolve
from llmrecipe.recipe.quantity import Fraction, Phase
from llmrecipe.recipe.schema import Word, kind
from llmrecipe.recipe.validators import FLOAT32_MAX, at_least, between, greater_than, not_empty

if TYPE_CHECKING:
    from llmrecipe.recipe.corpus import Part
    from llmrecipe.recipe.networks.network import Network


@kind
class Source(Word):
    """Where documents come from."""

    @property
    def has_addresses(self) -> bool:
        """Whether documents come with the address of the page that they are from."""
        return False


@kind
class Cleaner(Word):
    """One step of what happens to the documents of a corpus."""

    changes_text: ClassVar[bool] = False
    """Whether documents that stay can come out with another text."""

    compares: ClassVar[bool] = False
    """Whether documents are compared with each other or with an evaluation set."""

    drops_equals: ClassVar[bool] = False
    """Whether only one of several documents with equal texts stays."""

    reads_addresses: ClassVar[bool] = False
    """Whether it looks at the addresses of the pages that documents are from."""

    needs_split: ClassVar[bool] = False
    """Whether it has to know which documents are held out: the first that does decides when they are split."""


@kind
class Augmenter(Word):
    """What is made of training documents and added to them."""

    share: float = attrs.field(default=0.1, validator=greater_than(0, 1))
    """Most documents used, as a share of the training documents, and of their UTF-8 bytes."""

    seed: int = attrs.field(default=0, validator=at_least(0))
    """Decides which documents, and what is drawn."""


@kind
class Text(Word):
    """Documents to learn from and to measure on."""

    @property
    @abstractmethod
    def name(self) -> str:
        """Its name in stage names and folders."""

    @property
    @abstractmethod
    def parts(self) -> "tuple[Part, ...]":
        """The corpora that it consists of, with their weights."""


@kind
class Tokenizer(Word):
    """Text to tokens."""

    has_mask_token: ClassVar[bool | None] = None
    """Whether it has a mask token; None where only its files tell."""

    @property
    @abstractmethod
    def name(self) -> str:
        """Its name in stage names and folders."""

    @property
    def origin(self) -> "Tokenizer":
        """The tokenizer whose tokens these are: itself, unless it is taken from a model."""
        return self


@kind
class Objective(Word):
    """What a model learns to predict."""

    sequence_length: int = attrs.field(validator=between(2, 10**7))
    """Tokens the model reads at once."""

    module: ClassVar[str] = ""
    """The module whose `reader` makes its batches; empty for those of this package."""

    is_masked: ClassVar[bool]
    """Whether it predicts masked tokens from both sides; else, each token from those before it."""

    @property
    def special_tokens(self) -> tuple[str, ...]:
        """Special tokens of the tokenizer that it puts into training sequences."""
        return ()

    @property
    def restart_at_documents(self) -> bool:
        """Whether a token reads only tokens of its own document, and positions count from its beginning."""
        return False

    @property
    def shortest_sequence(self) -> int:
        """Tokens that a sequence needs at least."""
        return 2

    @property
    def context_weight(self) -> float:
        """Weight in the loss of the tokens before masked spans; 0 if they aren't predicted."""
        return 0.0


@kind
class Optimizer(Word):
    """How gradients become updates."""

    learning_rate: float = attrs.field(validator=greater_than(0, FLOAT32_MAX))
    """The peak, reached at the end of the warm-up."""

    @property
    def states_per_weight(self) -> int:
        """Numbers that it keeps for each weight from step to step."""
        return 0


@kind
class Schedule(Word):
    """How the learning rate moves."""

    warmup: Phase = Fraction(0.01)
    """Length of the linear warm-up, in steps or as a share of the run."""


@kind
class Adapter(Word):
    """Small weights that learn in the place of a model's own, into which they are merged in the end."""

    keep: bool = False
    """Whether they are kept by themselves as well, beside the model, in the format of peft."""

    @abstractmethod
    def num_parameters(self, network: "Network") -> int:
        """Weights that it has beside such a network."""

    @abstractmethod
    def misfits(self, network: "Network") -> Iterator[tuple[str, str]]:
        """Why such a network can't have it, and what can: its fields, each with the reason."""


@kind
class Masking(Word):
    """What is masked together."""


@kind
class Model(Word):
    """Weights that exist, or will."""

    @property
    def task(self) -> "Task | None":
        """What it was taught to do beside predicting text; None if nothing."""
        return None

    @property
    def predicts_text(self) -> bool:
        """Whether it predicts text; what it was taught may have another head."""
        return self.task is None or self.task.keeps_text

    @property
    def is_rounded(self) -> bool:
        """Whether its weights are rounded to few values, and so can be neither trained nor rounded again."""
        return False

    @property
    def is_bfloat16(self) -> bool:
        """Whether all of it that isn't rounded has to be bfloat16, because transformers expands its weights to that."""
        return False

    @property
    def compares_by_layer(self) -> bool:
        """Whether its layers read what those of its parent do, but for their own errors: so they compare one by one."""
        return False

    @property
    def is_sparse(self) -> bool:
        """Whether some of its weights were made zero, and have to stay so."""
        return False

    @property
    @abstractmethod
    def name(self) -> str:
        """Its name in stage names and folders; all models share one namespace."""

    @property
    @abstractmethod
    def parents(self) -> "tuple[Model, ...]":
        """The models that it is made from."""

    @property
    @abstractmethod
    def network(self) -> "Network":
        """Its shape."""

    @property
    @abstractmethod
    def objective(self) -> Objective:
        """What it was trained to predict."""

    @property
    @abstractmethod
    def vocabulary(self) -> Tokenizer:
        """The tokenizer whose tokens it reads."""

    @property
    @abstractmethod
    def training_text(self) -> Text | None:
        """What its nearest trained ancestor, or itself, was trained on; None if nothing here was."""


SPLITS = ("train", "validation", "test")
"""What the examples of a task are divided into."""


@kind
class Task(Word):
    """What a pretrained model learns to do, with the examples that show it."""

    name: str = attrs.field(validator=not_empty)
    """The name of its examples in stage names and folders: letters, digits, `_` and `-`."""

    train: str = attrs.field(validator=not_empty)
    """The file of the examples that are learned from, in the project."""

    validation: str | Fraction = attrs.field(default=Fraction(0.1), validator=not_empty)
    """The file of those that decide which step was the best, or the share of the training examples that is taken for
    it."""

    test: str | Fraction = attrs.field(default=Fraction(0.1), validator=not_empty)
    """The file of those that the finished model is measured on, or the share of the training examples that is."""

    max_length: int = attrs.field(default=128, validator=between(8, 10**6))
    """Tokens that are read at once. What is longer is cut: of names and of contexts, into parts; of other texts, the
    end is left out."""

    seed: int = attrs.field(default=0, validator=at_least(0))
    """Decides which examples are taken for a share."""

    @property
    def on_examples(self) -> "Task":
        """This task on the files that a stage makes of any: where its examples came from is nothing of it."""
        return evolve(self, name="examples", seed=0, **{split: f"{split}.jsonl" for split in SPLITS})

    @property
    @abstractmethod
    def scores(self) -> tuple[str, ...]:
        """The numbers that each example has a part in, so that recoveries of them can be asked; the first decides which
        step is the best, unless there is one that only a run knows."""

    @property
    def numbers(self) -> tuple[str, ...]:
        """What else is measured of all examples together."""
        return ()

    @property
    def has_classes(self) -> bool:
        """Whether what is predicted is one of some classes."""
        return False

    file_ends: ClassVar[tuple[str, ...]] = ()
    """How its files may end; empty for however they do."""

    @property
    def key_fields(self) -> tuple[str, ...]:
        """Its fields that name keys or columns of its files, no two of which are the same."""
        return tuple(each.name for each in attrs.fields(type(self)) if each.name.endswith("_field"))

    keeps_text: ClassVar[bool] = False
    """Whether a model that has learned it predicts text still, by the head that it had."""

    @property
    def token_types(self) -> int | None:
        """How many types of tokens a network has to tell apart for it; None for as many as it does."""
        return None

    def misfits(self, network: "Network") -> Iterator[tuple[str, str]]:
        """Why such a network can't learn it, and what can: fields of what learns, each with the reason."""
        yield from ()


@kind
class Scheme(Word):
    """Number formats of weights and activations."""

    @property
    def moves_difficulty(self) -> bool:
        """Whether norms and weights take over factors from activations first, as by SmoothQuant and AWQ."""
        return bool(getattr(getattr(self, "rounding", None), "moves_difficulty", False))

    @property
    def scales_activations(self) -> bool:
        """Whether activations are scaled by what they are on the calibration text, and not at run time."""
        return False

    is_bfloat16: ClassVar[bool] = False
    """Whether a model that has it has to be bfloat16 in all that isn't rounded, because transformers expands its
    weights to that."""


@kind
class Rounding(Word):
    """How weights are rounded."""

    learns: ClassVar[bool] = False
    """Whether each block learns on the calibration text how its weights are rounded best."""

    moves_difficulty: ClassVar[bool] = False
    """Whether norms and weights take over factors from activations first."""


@kind
class Pruning(Word):
    """What of a model is left out, and how that is chosen."""

    is_sparse: ClassVar[bool] = False
    """Whether weights become zero, and stay where they are."""

    @property
    def reads_text(self) -> bool:
        """Whether it is chosen by what the model computes of a text."""
        return True

    def pruned(self, network: "Network") -> "Network":
        """The shape that is left of a network.

        Raises:
            ValueError: it can't be left out of this one, which the checks refuse.
        """
        return network

    @property
    @abstractmethod
    def suffix(self) -> str:
        """What is added to a model's name for that of the pruned one: `sparse50`."""


@kind
class Divergence(Word):
    """How far a student's predictions are from its teacher's."""

    temperature: float = attrs.field(default=1.0, validator=greater_than(0, 1_000))
    """What the logits of both are divided by: above 1, unlikely tokens count for more. The loss is multiplied by its
    square, so gradients keep their size (Hinton et al. 2015)."""


@kind
class Decoding(Word):
    """How a model writes a text."""


@kind
class Gate(Word):
    """What a model has to show before it is released."""


@kind
class Place(Word):
    """On which machines text is prepared."""
