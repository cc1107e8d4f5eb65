"""Which of two answers a model holds likelier, beside what its start holds (DPO, Rafailov et al. 2023)."""

import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import attrs
import torch
from torch.nn import functional

from llmrecipe.engines.tasks.chats import ChatWork
from llmrecipe.engines.tasks.examples import Example
from llmrecipe.engines.tasks.items import UNLABELLED, Batch, Item, Padding
from llmrecipe.engines.tasks.score import Score
from llmrecipe.engines.tasks.work import Answers, Verdict
from llmrecipe.recipe.task import Preferences

_SHOWN = 400
"""Characters of a text among the errors."""


@attrs.frozen(kw_only=True)
class Choice:
    """Two answers to a question, each behind it, with labels at the answer's tokens."""

    chosen: Item

    rejected: Item

    start: tuple[float, float] | None = None
    """The logarithms of the probabilities that the start gives both answers, once they are known."""

    @property
    def length(self) -> int:
        """Tokens that are read of it: those of the longer sequence, twice."""
        return 2 * max(self.chosen.length, self.rejected.length)

    @property
    def example(self) -> int:
        """The example that it is."""
        return self.chosen.example


@attrs.frozen(kw_only=True)
class Held:
    """How likely a model holds both answers of a pair."""

    logs: tuple[float, float]
    """The logarithms of the probabilities of the chosen and of the rejected answer."""

    tokens: tuple[int, int]
    """Tokens that they have."""

    loss: float | None
    """What the pair costs beside the start; None where that isn't known."""

    @property
    def margin(self) -> float:
        """By how much likelier the chosen answer is by token, in nats: answers are of different lengths."""
        chosen, rejected = (log / count for log, count in zip(self.logs, self.tokens, strict=True))
        return chosen - rejected


class PreferencesWork(ChatWork[Preferences]):
    """The answer that is preferred."""

    tag: ClassVar[str] = Preferences.tag

    when_too_long: ClassVar[str] = "the end of an answer is left out, and a pair whose answers don't differ before it"

    def items(self, examples: Sequence[Example]) -> tuple[list[Choice], int]:
        """Pairs of sequences."""
        pairs, too_long, most = [], 0, self.task.max_length
        for index, example in enumerate(examples):
            chosen, rejected = (
                self._template.rendered(
                    [*example["messages"], {"role": "assistant", "content": example[side]}],
                    example["id"],
                    last_alone=True,
                )
                for side in ("chosen", "rejected")
            )
            too_long += max(len(chosen.input_ids), len(rejected.input_ids)) > most
            one, other = chosen.item(most, index), rejected.item(most, index)
            if one is not None and other is not None and one != other:
                pairs.append(Choice(chosen=one, rejected=other))
        return pairs, too_long

    def batch(self, items: Sequence[Choice], fillers: int = 0) -> Batch:
        """All chosen sequences, and behind them all rejected ones; `start`, `float32[2, pairs]`, if that is known."""
        sequences = [pair.chosen for pair in items] + [pair.rejected for pair in items]
        made = Padding(token_id=self.fill_id, has_labels_by_token=True).batch(sequences)
        made["counts"] = torch.arange(len(items)) < len(items) - fillers
        known = [pair.start for pair in items if pair.start is not None]
        return made | ({"start": torch.tensor(known).T} if known else {})

    def prepared(self, items: Sequence[Choice], says: Callable[[Sequence[Choice]], Answers]) -> list[Choice]:
        """Pairs with how likely the start holds their answers."""
        said = says(items)
        return [attrs.evolve(pair, start=said[pair.example, 0].logs) for pair in items]

    def loss(self, outputs: Any, batch: Batch, weights: torch.Tensor | None) -> torch.Tensor:
        """`-log σ(beta · (m - m₀))`, added up over pairs."""
        return self._losses(_logs(outputs, batch), batch)[batch["counts"]].sum()

    def _losses(self, logs: torch.Tensor, batch: Batch) -> torch.Tensor:
        """That of each pair."""
        chosen, rejected = logs - batch["start"]
        return -functional.logsigmoid(self.task.beta * (chosen - rejected))

    def count(self, batch: Batch) -> torch.Tensor:
        """How many pairs count."""
        return batch["counts"].sum()

    def answered(self, outputs: Any, batch: Batch, items: Sequence[Choice]) -> list[tuple[int, int, Held]]:
        """How likely both answers of each pair are."""
        logs = _logs(outputs, batch)
        losses = self._losses(logs, batch).tolist() if "start" in batch else [None] * len(items)
        tokens = _are_answers(batch).sum(-1).view(2, -1).T.tolist()
        return [
            (pair.example, 0, Held(logs=tuple(own), tokens=tuple(counts), loss=loss))
            for pair, own, counts, loss in zip(items, logs.T.tolist(), tokens, losses, strict=True)
        ]

    def verdict(self, examples: Sequence[Example], answers: Answers) -> Verdict:
        """How often the chosen answer is likelier, and beside the start, the loss."""
        # Of what is too long, a pair may be left out.
        held = {index: answers[index, 0] for index in range(len(examples)) if (index, 0) in answers}
        margins = {index: each.margin for index, each in held.items()}
        places = range(len(examples))
        there = [float(index in held) for index in places]
        right = [float(margins.get(index, 0.0) > 0) for index in places]
        scores = {"accuracy": Score(better="higher", above=right, below=there)}
        losses = {index: each.loss for index, each in held.items() if each.loss is not None}
        if losses:
            costs = Score(better="lower", above=[losses.get(index, 0.0) for index in places], below=there)
            scores = {"loss": costs} | scores
        numbers: dict[str, Any] = {name: score.value for name, score in scores.items()}
        numbers["margin"] = math.fsum(margins.values()) / max(len(margins), 1)
        errors = [
            {
                "id": examples[index]["id"],
                "margin": margin,
                "question": examples[index]["messages"][-1]["content"][:_SHOWN],
                "chosen": examples[index]["chosen"][:_SHOWN],
                "rejected": examples[index]["rejected"][:_SHOWN],
            }
            for index, margin in margins.items()
            if margin <= 0
        ]
        errors.sort(key=lambda error: (error["margin"], error["id"]))
        return Verdict(numbers=numbers, scores=scores, errors=errors)

    def probe(self, items: Sequence[Choice]) -> torch.Tensor:
        """The tokens of a chat with the chosen answer."""
        return torch.tensor([items[0].chosen.input_ids])


def _are_answers(batch: Batch) -> torch.Tensor:
    """Which tokens but the first are an answer's, `bool[2 * pairs, length - 1]`."""
    return batch["labels"][:, 1:] != UNLABELLED


def _logs(outputs: Any, batch: Batch) -> torch.Tensor:
    """The logarithms of the probabilities of the chosen and of the rejected answers, `float32[2, pairs]`."""
    there = _are_answers(batch)
    # Only of answers, since the logits of all tokens may be the largest of all that is in memory.
    logits, labels = outputs.logits[:, :-1][there].float(), batch["labels"][:, 1:][there]
    costs = functional.cross_entropy(logits, labels, reduction="none")
    return -costs.new_zeros(there.shape).masked_scatter(there, costs).sum(-1).view(2, -1)
