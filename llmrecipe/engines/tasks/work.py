"""What is common to all tasks: from examples to what a model reads, from what it gives to answers and numbers."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Generic, Self, TypeVar, cast

import attrs
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from llmrecipe import cards
from llmrecipe.cards import ModelCard, TaskCard
from llmrecipe.engines.models import folders
from llmrecipe.engines.tasks.examples import Example
from llmrecipe.engines.tasks.items import Batch
from llmrecipe.engines.tasks.score import Pooled, Score
from llmrecipe.errors import StageError
from llmrecipe.recipe import kinds
from llmrecipe.recipe.measure import Task
from llmrecipe.recipe.networks.network import Network

T = TypeVar("T", bound=kinds.Task)

_TOKENS_AT_ONCE, _LOGITS_AT_ONCE = 1 << 13, 1 << 26

_READ = ("input_ids", "attention_mask", "token_type_ids", "position_ids")


@attrs.frozen(kw_only=True)
class Verdict:
    """How good answers are."""

    numbers: dict[str, Any]
    """By name, those of classes in groups."""

    scores: dict[str, Score]
    """Those of them by which models are compared, the first of which decides what is the best model."""

    errors: list[dict[str, Any]]
    """Examples that were answered wrongly, the clearest first."""

    pooled: dict[str, Pooled] = attrs.field(factory=dict)
    """Others of them, so that they can be had of any examples."""

    pairs: list[tuple[str, str, int]] = attrs.field(factory=list)
    """Label, answer, and how often one was taken for the other; none where there are no labels."""

    sure: list[tuple[float, bool]] = attrs.field(factory=list)
    """How likely each answer was held, and whether it is right; none where that isn't told."""


Answers = dict[tuple[int, int], Any]
"""What a model says, by example and place in it (a word, a part; 0 where there is one alone)."""


class Work(ABC, Generic[T]):
    """A task, for a model that learns or has learned it."""

    tag: ClassVar[str]
    """That of the task."""

    head: ClassVar[str]
    """What the name of transformers' class ends in, `AutoModelForTokenClassification`; empty for a body alone."""

    when_too_long: ClassVar[str]
    """What happens to an example that is longer than what is read at once."""

    def __init__(self, card: TaskCard, tokenizer: PreTrainedTokenizerBase) -> None:
        """For a model with this card and tokenizer."""
        self.card, self.tokenizer = card, tokenizer
        self.task = cast(T, card.task)

    @classmethod
    def opened(cls, directory: str | Path) -> tuple[PreTrainedModel, Self]:
        """The model in a folder, and the task that it has learned, for programs.

        Raises:
            StageError: there is none that was fine-tuned for this.
        """
        folder = Path(directory)
        model, card = folders.load_model(folder), cards.read(folder, ModelCard).task
        if card is None or card.task.tag != cls.tag:
            raise StageError(f"{folder}: this model wasn't fine-tuned for {cls.__name__.removesuffix('Work')}")
        return model, cls(card, folders.load_tokenizer(folder))

    @abstractmethod
    def items(self, examples: Sequence[Example]) -> tuple[list[Any], int]:
        """What a model reads of examples, each with its `length`, and how many of these are too long to be read."""

    @abstractmethod
    def batch(self, items: Sequence[Any], fillers: int = 0) -> Batch:
        """What a model reads of these, and what it is to say; the last `fillers` of them count for nothing."""

    @abstractmethod
    def loss(self, outputs: Any, batch: Batch, weights: torch.Tensor | None) -> torch.Tensor:
        """The loss, added up over what counts; labels weigh as much as `weights` says."""

    @abstractmethod
    def count(self, batch: Batch) -> torch.Tensor:
        """How much counts."""

    @abstractmethod
    def answered(self, outputs: Any, batch: Batch, items: Sequence[Any]) -> Iterable[tuple[int, int, Any]]:
        """What a model says: the example, the place and what it says there."""

    @abstractmethod
    def verdict(self, examples: Sequence[Example], answers: Answers) -> Verdict:
        """How good answers are."""

    def weights(self, items: Sequence[Any]) -> torch.Tensor:
        """What each label counts for, so that each has as much of the loss, `float32[labels]`.

        Raises:
            StageError: there are no labels.
        """
        raise StageError(f"{self.tag} has no classes; leave out class_weights")

    def prepared(self, items: Sequence[Any], says: Callable[[Sequence[Any]], Answers]) -> list[Any]:
        """What a run learns from: items that know what the start `says` of them, where the loss compares with that."""
        return list(items)

    def written(
        self, model: PreTrainedModel, examples: Sequence[Example], asked: Task, told: Callable[[Any], Any]
    ) -> Answers:
        """What a model writes by itself, at places that `answered` leaves free; nothing where no answer is written."""
        return {}

    def plain(self, model: PreTrainedModel, items: Sequence[Any], examples: Sequence[Example]) -> dict[str, Any]:
        """What a program gets of the model that knows of it what transformers does; nothing if that is all there is."""
        return {}

    def files(self, directory: Path, network: Network) -> dict[str, str]:
        """By path in a model's folder, as it is by now, the texts that programs need beside weights and tokenizer."""
        return {}

    def probe(self, items: Sequence[Any]) -> torch.Tensor:
        """Tokens to compare what models compute by, `int64[1, length]`."""
        return torch.tensor([items[0].input_ids])

    @property
    def fill_id(self) -> int:
        """The token that fills up a batch."""
        tokenizer = self.tokenizer
        known = (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id)
        # Nothing reads it but for decoders, which look for the last token that is another.
        return int(next((token for token in known if token is not None), 0))

    @torch.inference_mode()
    def answers(
        self,
        model: PreTrainedModel,
        items: Sequence[Any],
        told: Callable[[Any], Any] = lambda batches: batches,
    ) -> Answers:
        """What a model says of items."""
        found: Answers = {}
        most = _TOKENS_AT_ONCE
        if self.task.keeps_text:
            most = min(most, _LOGITS_AT_ONCE // model.config.vocab_size)
        for chosen in told(_of_like_length(items, most)):
            batch = {name: each.to(model.device) for name, each in self.batch(chosen).items()}
            for example, place, said in self.answered(model(**inputs(batch)), batch, chosen):
                found[example, place] = said
        return found


def inputs(batch: Batch) -> dict[str, Any]:
    """What of a batch a model reads."""
    # With a cache, transformers wouldn't see by positions where a sequence begins.
    return {name: batch[name] for name in _READ if name in batch} | ({"use_cache": False} if "owners" in batch else {})


def _of_like_length(items: Sequence[Any], most: int) -> list[list[Any]]:
    """The items in batches of about as many tokens, at most `most` if there are several."""
    found: list[list[Any]] = []
    for item in sorted(items, key=lambda each: each.length):
        if found and item.length * (len(found[-1]) + 1) <= most:
            found[-1].append(item)
        else:
            found.append([item])
    return found


def balanced(labels: Sequence[int], count: int) -> torch.Tensor:
    """What each label counts for: all over `count` times its own; one that doesn't occur counts nothing."""
    there = torch.bincount(torch.tensor(labels), minlength=count)
    return torch.where(there > 0, len(labels) / (count * there.clamp(min=1)), torch.zeros(count))
