"""Labels of texts, or their scores."""

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch.nn import functional

from llmrecipe.engines.tasks.counting import ByClass, added, by_class, macro_f1, report
from llmrecipe.engines.tasks.examples import Example
from llmrecipe.engines.tasks.items import Batch, Item, Padding
from llmrecipe.engines.tasks.score import Score, correlation
from llmrecipe.engines.tasks.work import Answers, Verdict, Work, balanced
from llmrecipe.recipe.task import Classification

_SHOWN = 200
"""Characters of a text among the errors."""

_NONE = "–"
"""In the place of a label that wasn't said."""

_ALMOST_SURE = 1 - 1e-12


class ClassificationWork(Work[Classification]):
    """One label of a text, several, or a number."""

    tag: ClassVar[str] = Classification.tag

    head: ClassVar[str] = "SequenceClassification"

    when_too_long: ClassVar[str] = "the end of a text is left out"

    @property
    def _is_score(self) -> bool:
        return not self.task.has_classes

    @property
    def _are_several(self) -> bool:
        return self.task.answer == "several"

    def batch(self, items: Sequence[Item], fillers: int = 0) -> Batch:
        """A label for each text, or a number for each of its labels."""
        is_number = self._is_score or self._are_several
        padding = Padding(
            token_id=self.fill_id,
            has_labels_by_token=False,
            labels_type=torch.float32 if is_number else torch.int64,
        )
        return padding.batch(items, fillers)

    def items(self, examples: Sequence[Example]) -> tuple[list[Item], int]:
        """One for each text, whose end is left out if it is too long."""
        texts = [example["text"] for example in examples]
        seconds = [example["second_text"] for example in examples] if "second_text" in examples[0] else None
        if seconds is not None and self.tokenizer.num_special_tokens_to_add(pair=True) == 0:
            # Nothing else would tell where the second begins.
            texts, seconds = [f"{one}\n{other}" for one, other in zip(texts, seconds, strict=True)], None
        # What looks like a special token in a text is none.
        options = {"split_special_tokens": True, "verbose": False}
        encoded = self.tokenizer(texts, seconds, truncation=True, max_length=self.task.max_length, **options)
        whole = self.tokenizer(texts, seconds, **options)["input_ids"]
        rows = encoded["input_ids"]
        types = encoded.get("token_type_ids") or [None] * len(rows)
        found = [
            Item(
                input_ids=row,
                labels=self._label(example),
                token_types=own if seconds is not None else None,
                example=index,
            )
            for index, (row, own, example) in enumerate(zip(rows, types, examples, strict=True))
        ]
        return found, sum(len(one) < len(other) for one, other in zip(rows, whole, strict=True))

    def _label(self, example: Example) -> Any:
        if self._is_score:
            return example.get("score", 0.0)
        if self._are_several:
            return [float(label in example.get("labels", ())) for label in self.card.labels]
        return self.card.labels.index(example.get("label", self.card.labels[0]))

    def loss(self, outputs: Any, batch: Batch, weights: torch.Tensor | None) -> torch.Tensor:
        """Added up over texts: cross-entropy; of several labels the mean of theirs; of a score the squared error."""
        labels, counts, logits = batch["labels"], batch["counts"], outputs.logits.float()
        if self._is_score:
            each = (logits[:, 0] - labels).square()
        elif self._are_several:
            of_labels = functional.binary_cross_entropy_with_logits
            each = of_labels(logits, labels, pos_weight=weights, reduction="none").mean(-1)
        else:
            each = functional.cross_entropy(logits, labels, weight=weights, reduction="none")
        return each[counts].sum()

    def weights(self, items: Sequence[Item]) -> torch.Tensor:
        """By texts; of several labels, what a text that has one counts for beside those without."""
        if not self._are_several:
            return balanced([item.labels for item in items], len(self.card.labels))
        there = torch.tensor([item.labels for item in items]).sum(0)
        return (len(items) - there).clamp(min=1) / there.clamp(min=1)

    def count(self, batch: Batch) -> torch.Tensor:
        """How many texts count."""
        return batch["counts"].sum()

    def answered(self, outputs: Any, batch: Batch, items: Sequence[Item]) -> list[tuple[int, int, list[float]]]:
        """The logarithms of the probabilities of each text's labels, or its score."""
        logits = outputs.logits.float()
        if self._is_score:
            rows = logits[:, :1]
        else:
            rows = functional.logsigmoid(logits) if self._are_several else logits.log_softmax(-1)
        return [(item.example, 0, row) for item, row in zip(items, rows.cpu().tolist(), strict=True)]

    def verdict(self, examples: Sequence[Example], answers: Answers) -> Verdict:
        """A report on labels, or on scores."""
        rows = [answers[index, 0] for index in range(len(examples))]
        if self._is_score:
            return _of_scores(examples, [row[0] for row in rows])
        if self._are_several:
            return self._of_several(examples, rows)
        return self._of_one(examples, rows)

    def _of_one(self, examples: Sequence[Example], rows: Sequence[Sequence[float]]) -> Verdict:
        labels = self.card.labels
        said = [labels[max(range(len(row)), key=row.__getitem__)] for row in rows]
        own = [example["label"] for example in examples]
        by_text = _counted([{each} for each in own], [{each} for each in said])
        found = report(added(by_text, labels))
        right = [float(one == other) for one, other in zip(own, said, strict=True)]
        accuracy = Score(better="higher", above=right, below=[1.0] * len(right))
        surprises = [-row[labels.index(one)] for row, one in zip(rows, own, strict=True)]
        loss = Score(better="lower", above=surprises, below=[1.0] * len(surprises))
        numbers = {
            "accuracy": accuracy.value,
            "macro_f1": found["macro"]["f1"],
            "loss": loss.value,
            "labels": found,
        }
        together = Counter(zip(own, said, strict=True))
        pairs = [(one, other, together[one, other]) for one in labels for other in labels]
        errors = _errors(examples, own, said, surprises)
        sure = [(math.exp(max(row)), bool(hit)) for row, hit in zip(rows, right, strict=True)]
        return Verdict(
            numbers=numbers,
            scores={"accuracy": accuracy, "loss": loss},
            pooled={"macro_f1": macro_f1(by_text, labels)},
            errors=errors,
            pairs=pairs,
            sure=sure,
        )

    def _of_several(self, examples: Sequence[Example], rows: Sequence[Sequence[float]]) -> Verdict:
        labels, half = self.card.labels, math.log(0.5)
        said = [{label for label, log in zip(labels, row, strict=True) if log > half} for row in rows]
        own = [set(example["labels"]) for example in examples]
        by_text = _counted(own, said)
        found = report(added(by_text, labels))
        f1 = Score(
            better="higher",
            above=[2.0 * len(one & other) for one, other in zip(own, said, strict=True)],
            below=[float(len(one) + len(other)) for one, other in zip(own, said, strict=True)],
        )
        exact = Score(
            better="higher",
            above=[float(one == other) for one, other in zip(own, said, strict=True)],
            below=[1.0] * len(own),
        )
        numbers = {"micro_f1": f1.value, "macro_f1": found["macro"]["f1"], "accuracy": exact.value, "labels": found}
        taken = [
            (label, label in its) for mine, its in zip(own, said, strict=True) for label in labels if label in mine
        ]
        pairs = [
            (label, answer, taken.count((label, answer != _NONE))) for label in labels for answer in (label, _NONE)
        ]
        surprises = [
            -sum(log if label in mine else math.log1p(-min(math.exp(log), _ALMOST_SURE)) for label, log in each)
            for each, mine in zip((list(zip(labels, row, strict=True)) for row in rows), own, strict=True)
        ]
        mine, its = ([", ".join(sorted(each)) or _NONE for each in sets] for sets in (own, said))
        errors = _errors(examples, mine, its, surprises)
        sure = [
            (chance if chance > 0.5 else 1 - chance, (label in mine) == (chance > 0.5))
            for row, mine in zip(rows, own, strict=True)
            for label, chance in zip(labels, map(math.exp, row), strict=True)
        ]
        scores = {"micro_f1": f1, "accuracy": exact}
        pooled = {"macro_f1": macro_f1(by_text, labels)}
        return Verdict(numbers=numbers, scores=scores, pooled=pooled, errors=errors, pairs=pairs, sure=sure)


def _of_scores(examples: Sequence[Example], said: Sequence[float]) -> Verdict:
    own = [example["score"] for example in examples]
    errors = [(one - other) ** 2 for one, other in zip(own, said, strict=True)]
    mean_squared = Score(better="lower", above=errors, below=[1.0] * len(errors))
    pearson = correlation(own, said)
    return Verdict(
        numbers={"mean_squared_error": mean_squared.value, "pearson": pearson.value},
        scores={"mean_squared_error": mean_squared},
        pooled={"pearson": pearson},
        errors=_errors(examples, [f"{each:g}" for each in own], [f"{each:.4g}" for each in said], errors),
    )


def _counted(own: Sequence[set[str]], said: Sequence[set[str]]) -> list[ByClass]:
    """Of each text, the counts of its labels."""
    return [by_class(one, other, str) for one, other in zip(own, said, strict=True)]


def _errors(
    examples: Sequence[Example], own: Sequence[str], said: Sequence[str], surprises: Sequence[float]
) -> list[dict[str, Any]]:
    found = [
        {
            "id": example["id"],
            "surprise": surprise,
            "expected": one,
            "answered": other,
            "text": example["text"][:_SHOWN],
        }
        for example, one, other, surprise in zip(examples, own, said, surprises, strict=True)
        if one != other
    ]
    return sorted(found, key=lambda error: (-error["surprise"], error["id"]))
