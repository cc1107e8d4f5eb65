"""What is common to all tasks: from examples to what a model reads, from what it gives to answers and numbers."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import attrs
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from llmrecipe.cards import TaskCard
from llmrecipe.engines.tasks.examples import Example
from llmrecipe.engines.tasks.items import Batch, Item, Padding
from llmrecipe.engines.tasks.score import Score

_TOKENS_AT_ONCE = 1 << 13


@attrs.frozen(kw_only=True)
class Verdict:
    """How good answers are."""

    numbers: dict[str, Any]
    """By name, those of classes in groups."""

    scores: dict[str, Score]
    """Those of them by which models are compared, the first of which decides what is the best model."""

    pairs: list[tuple[str, str, int]]
    """Label, answer, and how often one was taken for the other; of a score, none."""

    errors: list[dict[str, Any]]
    """Examples that were taken for something else, the clearest first."""


class Work(ABC):
    """A task, for a model with these labels."""

    tag: ClassVar[str]
    """That of the task."""

    head: ClassVar[str]
    """The part of the name of transformers' classes that have the head: `TokenClassification`."""

    def __init__(self, card: TaskCard, tokenizer: PreTrainedTokenizerBase) -> None:
        """For a model with this card and tokenizer."""
        self.card, self.tokenizer = card, tokenizer

    @property
    @abstractmethod
    def padding(self) -> Padding:
        """How its items are put together."""

    @abstractmethod
    def items(self, examples: Sequence[Example]) -> tuple[list[Item], int]:
        """What a model reads of examples, and how many of these are too long to be read at once."""

    @abstractmethod
    def loss(self, logits: torch.Tensor, batch: Batch, weights: torch.Tensor | None) -> torch.Tensor:
        """The loss, added up over what counts; labels weigh as much as `weights` says."""

    @abstractmethod
    def weights(self, items: Sequence[Item]) -> torch.Tensor:
        """What each label counts for, so that each has as much of the loss, `float32[labels]`."""

    @abstractmethod
    def count(self, batch: Batch) -> torch.Tensor:
        """How much counts."""

    @abstractmethod
    def answered(self, logits: torch.Tensor, batch: Batch, items: Sequence[Item]) -> list[tuple[int, int, list[float]]]:
        """What a model says: the example, the word (0 where there is none) and the logarithms of probabilities."""

    @abstractmethod
    def verdict(self, examples: Sequence[Example], answers: Mapping[tuple[int, int], list[float]]) -> Verdict:
        """How good answers are, by example and word."""

    def plain(self, model: PreTrainedModel, items: Sequence[Item], examples: Sequence[Example]) -> dict[str, Any]:
        """What a program gets of the model that knows of it what transformers does; nothing if that is all there is."""
        return {}

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
        items: Sequence[Item],
        told: Callable[[Any], Any] = lambda batches: batches,
    ) -> dict[tuple[int, int], list[float]]:
        """What a model says of items, by example and word."""
        found: dict[tuple[int, int], list[float]] = {}
        for chosen in told(_of_like_length(items)):
            batch = {name: each.to(model.device) for name, each in self.padding.batch(chosen).items()}
            read = {name: each for name, each in batch.items() if name not in ("labels", "counts")}
            logits = model(**read).logits.float()
            for example, word, logs in self.answered(logits, batch, chosen):
                found[example, word] = logs
        return found


def _of_like_length(items: Sequence[Item]) -> list[list[Item]]:
    """The items in batches of about as many tokens."""
    found: list[list[Item]] = []
    for item in sorted(items, key=lambda each: each.length):
        if found and item.length * (len(found[-1]) + 1) <= _TOKENS_AT_ONCE:
            found[-1].append(item)
        else:
            found.append([item])
    return found


def balanced(labels: Sequence[int], count: int) -> torch.Tensor:
    """What each label counts for: all over `count` times its own; one that doesn't occur counts nothing."""
    there = torch.bincount(torch.tensor(labels), minlength=count)
    return torch.where(there > 0, len(labels) / (count * there.clamp(min=1)), torch.zeros(count))
