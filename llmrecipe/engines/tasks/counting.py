"""Precision, recall and F1 by class, from what was right, what was said and what there is."""

from collections.abc import Mapping, Sequence
from typing import Any

import attrs


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


def _row(precision: float, recall: float, f1: float, support: int) -> dict[str, Any]:
    return {"precision": precision, "recall": recall, "f1": f1, "support": support}


def _mean(rows: Mapping[str, Mapping[str, float]], weights: Sequence[float], support: int) -> dict[str, Any]:
    pairs, whole = list(zip(rows.values(), weights, strict=True)), sum(weights)
    means = {
        key: sum(row[key] * weight for row, weight in pairs) / whole if whole else 0.0
        for key in ("precision", "recall", "f1")
    }
    return means | {"support": support}
