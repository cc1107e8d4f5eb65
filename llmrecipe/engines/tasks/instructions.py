"""Answers in chats, learned token by token, and written."""

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch.nn import functional
from transformers import PreTrainedModel

from llmrecipe.engines.tasks import sandbox, squad
from llmrecipe.engines.tasks.chats import ChatWork
from llmrecipe.engines.tasks.examples import Example
from llmrecipe.engines.tasks.items import UNLABELLED, Batch
from llmrecipe.engines.tasks.packs import Pack, batch_of, packed
from llmrecipe.engines.tasks.passing import pass_at
from llmrecipe.engines.tasks.programs import program_of
from llmrecipe.engines.tasks.score import Pooled, Score
from llmrecipe.engines.tasks.work import Answers, Verdict
from llmrecipe.engines.tasks.writing import written
from llmrecipe.errors import StageError
from llmrecipe.recipe.measure import Task
from llmrecipe.recipe.task import Instructions

_LARGEST = 700
"""The largest loss that a perplexity is told of: e to the power of more is no number."""

_SHOWN = 400
"""Characters of a text among the errors."""


class InstructionsWork(ChatWork[Instructions]):
    """What the assistant says."""

    tag: ClassVar[str] = Instructions.tag

    when_too_long: ClassVar[str] = "the end of a chat is left out, and what has no answer then as a whole"

    def items(self, examples: Sequence[Example]) -> tuple[list[Pack], int]:
        """Packs of chats, with a label at each token of an answer."""
        found, too_long = [], 0
        for index, example in enumerate(examples):
            chat = self._template.rendered(example["messages"], example["id"])
            too_long += len(chat.input_ids) > self.task.max_length
            item = chat.item(self.task.max_length, index)
            if item is not None:
                found.append(item)
        packs = packed(found, self.task.max_length) if self.task.packing else [Pack((item,)) for item in found]
        return packs, too_long

    def batch(self, items: Sequence[Pack], fillers: int = 0) -> Batch:
        """Packs, with their positions."""
        return batch_of(items, self.fill_id, fillers)

    def loss(self, outputs: Any, batch: Batch, weights: torch.Tensor | None) -> torch.Tensor:
        """Cross-entropy, added up over the tokens of answers."""
        return self._losses(outputs, batch)[0].sum()

    def _losses(self, outputs: Any, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """That of each token of an answer, `float32[tokens]`, and the example that it is of."""
        labels = batch["labels"][:, 1:]
        there = labels != UNLABELLED
        logits = outputs.logits[:, :-1][there].float()
        return functional.cross_entropy(logits, labels[there], reduction="none"), batch["owners"][:, 1:][there]

    def count(self, batch: Batch) -> torch.Tensor:
        """How many tokens of answers count."""
        return (batch["labels"][:, 1:] != UNLABELLED).sum()

    def answered(self, outputs: Any, batch: Batch, items: Sequence[Pack]) -> list[tuple[int, int, tuple[float, int]]]:
        """What the known answers of each chat cost, and their tokens."""
        losses, owners = (each.cpu().tolist() for each in self._losses(outputs, batch))
        found: dict[int, list[float]] = defaultdict(list)
        for owner, loss in zip(owners, losses, strict=True):
            found[owner].append(loss)
        return [(owner, 0, (math.fsum(each), len(each))) for owner, each in found.items()]

    def written(
        self, model: PreTrainedModel, examples: Sequence[Example], asked: Task, told: Callable[[Any], Any]
    ) -> Answers:
        """The last answer of each chat as the model writes it, and whether it passes; as many as are asked for."""
        if asked.run_code:
            untested = [example["id"] for example in examples if "tests" not in example]
            if untested:
                shown = ", ".join(untested[:5])
                raise StageError(
                    f"{asked.tag}.run_code: {len(untested):,} of {len(examples):,} chats have nothing that tests what "
                    f"a model writes, such as {shown}; give them a tests_field"
                )
            sandbox.refuse_forbidden()
        prompts = [self._template.prompt(example["messages"][:-1], example["id"]) for example in examples]
        places = [(index, sample) for index in range(len(examples)) for sample in range(asked.samples)]
        texts = written(
            model,
            [(prompts[index], [index, sample]) for index, sample in places],
            end=self._template.end,
            fill=self.fill_id,
            max_new_tokens=asked.max_new_tokens,
            temperature=asked.temperature if asked.samples > 1 else None,
            told=told,
        )
        said = [self._text(each) for each in texts]
        outcomes: list[str | None] = [None] * len(places)
        if asked.run_code:
            outcomes = [
                sandbox.run(program_of(text, examples[index]["tests"])).verdict
                for (index, _), text in told(list(zip(places, said, strict=True)))
            ]
        return {
            (index, 1 + sample): (text, outcome)
            for (index, sample), text, outcome in zip(places, said, outcomes, strict=True)
        }

    def _text(self, tokens: Sequence[int]) -> str:
        return str(self.tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)).strip()

    def verdict(self, examples: Sequence[Example], answers: Answers) -> Verdict:
        """The loss of known answers, and what written ones are like."""
        costs = [answers.get((index, 0), (0.0, 0)) for index in range(len(examples))]
        loss = Score(better="lower", above=[each[0] for each in costs], below=[float(each[1]) for each in costs])
        perplexity = Pooled(counts=np.array([loss.above, loss.below]).T, number=_perplexity)
        numbers: dict[str, Any] = {"loss": loss.value, "perplexity": perplexity.value}
        pooled = {"perplexity": perplexity}
        if (0, 1) not in answers:
            return Verdict(numbers=numbers, scores={"loss": loss}, pooled=pooled, errors=[])
        # It imports what takes long, for which a rank that trains has no use.
        from llmrecipe.engines.tasks.overlap import overlaps

        own = [example["messages"][-1]["content"].strip() for example in examples]
        said = [answers[index, 1] for index in range(len(examples))]
        texts = [text for text, _ in said]
        common = overlaps(texts, [[each] for each in own])
        scores = common.scores | squad.scores(texts, [[each] for each in own])
        if said[0][1] is not None:
            samples = sum((0, place) in answers for place in range(1, len(answers) + 1))
            passed = [
                sum(answers[index, 1 + sample][1] == "passed" for sample in range(samples))
                for index in range(len(examples))
            ]
            scores |= {f"pass_at_{k}": pass_at(k, passed, samples) for k in sorted({1, samples})}
        return Verdict(
            numbers=numbers | common.numbers | {name: score.value for name, score in scores.items()},
            scores={"loss": loss, **scores},
            pooled=pooled | common.pooled,
            errors=_errors(examples, costs, said, scores["rougeL"].above),
        )

    def probe(self, items: Sequence[Pack]) -> torch.Tensor:
        """The tokens of a chat."""
        return torch.tensor([items[0].items[0].input_ids])


def _perplexity(sums: np.ndarray) -> float:
    return math.exp(min(float(sums[0] / max(sums[1], 1.0)), _LARGEST))


def _errors(
    examples: Sequence[Example], costs: Sequence[tuple[float, int]], said: Sequence[Any], likeness: Sequence[float]
) -> list[dict[str, Any]]:
    """Programs that don't pass; else answers that aren't the known ones, the most unlike first."""
    found = []
    for example, (cost, tokens), (text, outcome), like in zip(examples, costs, said, likeness, strict=True):
        expected = example["messages"][-1]["content"].strip()
        if outcome == "passed" or (outcome is None and text == expected):
            continue
        row = {
            "id": example["id"],
            "rougeL": like,
            "surprise": cost / max(tokens, 1),
            "question": example["messages"][-2]["content"][:_SHOWN],
            "expected": expected[:_SHOWN],
            "answered": text[:_SHOWN],
        }
        found.append(row | ({} if outcome is None else {"outcome": outcome}))
    return sorted(found, key=lambda error: (error["rougeL"], error["id"]))
