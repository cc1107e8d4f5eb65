"""Precision, recall and F1 by class, from what was right, what was said and what there is."""

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import attrs
import numpy as np

from llmrecipe.engines.tasks.score import Pooled

H = TypeVar("H", bound=Hashable)


@attrs.frozen
class Counts:
    """Of a class in some examples."""

    right: int = 0
    """How often it was said and is there."""

    said: int = 0
    """How often it was said."""

    there: int = 0
    """How often it is there."""

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(self.right + other.right, self.said + other.said, self.there + other.there)

    @property
    def precision(self) -> float:
        """Share of what was said that is right; 0 if nothing was."""
        return self.right / self.said if self.said else 0.0

    @property
    def recall(self) -> float:
        """Share of what is there that was found; 0 if there is nothing."""
        return self.right / self.there if self.there else 0.0

    @property
    def f1(self) -> float:
        """The harmonic mean of both: 2 right / (said + there)."""
        return 2 * self.right / (self.said + self.there) if self.said + self.there else 0.0


ByClass = Mapping[str, Counts]
"""Counts of an example; a class that it lacks has none."""


def by_class(there: Iterable[H], said: Iterable[H], class_of: Callable[[H], str]) -> ByClass:
    """What of an example is there, and what was said of it, counted by class."""
    own, found = set(there), set(said)
    counts = [Counter(map(class_of, each)) for each in (own & found, found, own)]
    return {name: Counts(*(count[name] for count in counts)) for name in sorted(counts[1] | counts[2])}


def added(examples: Sequence[ByClass], classes: Sequence[str]) -> dict[str, Counts]:
    """The counts of classes in all examples."""
    return {name: sum((each[name] for each in examples if name in each), Counts()) for name in classes}


def report(classes: Mapping[str, Counts]) -> dict[str, Any]:
    """By class, and as means: `micro` of all counts, `macro` of the classes, `weighted` by how often each is there.

    As scikit-learn's `classification_report` with `zero_division=0`.
    """
    rows = {name: _row(each.precision, each.recall, each.f1, each.there) for name, each in classes.items()}
    total = sum(classes.values(), Counts())
    micro = _row(total.precision, total.recall, total.f1, total.there)
    means = {"micro": micro, "macro": _mean(rows, [1.0] * len(rows), total.there)}
    means["weighted"] = _mean(rows, [each.there for each in classes.values()], total.there)
    return {"classes": rows, **means}


def macro_f1(examples: Sequence[ByClass], classes: Sequence[str]) -> Pooled:
    """The mean of the F1 of classes, of what each example has of them."""
    none = Counts()
    rows = [[attrs.astuple(each.get(name, none)) for name in classes] for each in examples]
    return Pooled(counts=np.array(rows, dtype=np.int64), number=_macro_f1)


def _macro_f1(sums: np.ndarray) -> float:
    right, said, there = sums.T
    return float(np.mean(2 * right / np.maximum(said + there, 1)))


def _row(precision: float, recall: float, f1: float, support: int) -> dict[str, Any]:
    return {"precision": precision, "recall": recall, "f1": f1, "support": support}


def _mean(rows: Mapping[str, Mapping[str, float]], weights: Sequence[float], support: int) -> dict[str, Any]:
    pairs, whole = list(zip(rows.values(), weights, strict=True)), sum(weights)
    means = {
        key: sum(row[key] * weight for row, weight in pairs) / whole if whole else 0.0
        for key in ("precision", "recall", "f1")
    }
    return means | {"support": support}
