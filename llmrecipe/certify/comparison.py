"""What differs between two runs that should be one, and whether it may."""

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import attrs

from llmrecipe.recipe.kinds import Optimizer
from llmrecipe.recipe.optimizer import AdamW, Muon

Row = dict[str, Any]
"""A step of `metrics.jsonl`."""

_LOSSES = ("loss", "context_loss", "z_loss", "validation_loss")


@attrs.frozen(kw_only=True)
class Tolerance:
    """How much two runs may differ; learning rates and samples never do."""

    loss: float
    """Relative difference of a step's loss, of training and validation."""

    weights: float
    """Absolute difference of a trained weight."""


EXACT = Tolerance(loss=0.0, weights=0.0)
"""Of the same run interrupted: every number of every step is the same, and every bit of every weight."""

ROUNDING = {
    "float32": Tolerance(loss=1e-5, weights=1e-4),
    # With 8 significant bits: a weight near 1, such as a norm's, may end four of its last places away.
    "bfloat16": Tolerance(loss=5e-3, weights=2**-5),
    # Weights are as in bfloat16, and a last place of that may decide to which 4 significant bits a product rounds.
    "float8": Tolerance(loss=5e-3, weights=2**-4),
}
"""Of another layout, which adds the same numbers in another order; by the training's precision."""


EXPLAINED = 16.0
"""How far another layout may be from the first run, over how far other micro-batches are.

Both add the same numbers in another order, at every step, and what is rounded grows alike in both.
"""

MOST_EXPLAINED = 1e-2
"""Relative difference of a loss that rounding never explains: where it goes so far, a mistake could hide in it."""


def tolerance_of(precision: str, optimizer: Optimizer) -> Tolerance:
    """What rounding explains between two layouts.

    Under AdamW and Muon a weight moves by about the learning rate at a step, however small its gradient is: where that
    is rounding alone, the direction differs.
    """
    rounding = ROUNDING[precision]
    if isinstance(optimizer, AdamW | Muon):
        return attrs.evolve(rounding, weights=max(rounding.weights, optimizer.learning_rate / 10))
    return rounding


@attrs.frozen(kw_only=True)
class Column:
    """One thing that was compared."""

    name: str
    """What: `loss`."""

    difference: float
    """The largest difference; 0 if there is none, infinite if no number says it, such as other samples."""

    allowed: float
    """The largest that passes."""

    where: str = ""
    """Where the largest difference is: `step 6`."""

    @property
    def passes(self) -> bool:
        """Whether the difference is allowed; one that is not a number isn't."""
        return self.difference <= self.allowed


def widened(tolerance: Tolerance, rounded: Iterable[Column]) -> Tolerance:
    """What rounding explains of this recipe, at least `tolerance`.

    It grows with the size of the weights, the learning rate and the steps, by no formula, so it is measured.

    Args:
        tolerance: what it explains of any.
        rounded: a run of the same layout with other micro-batches, compared with the first.
    """
    found = {column.name: column.difference for column in rounded}
    return Tolerance(
        loss=max(tolerance.loss, min(EXPLAINED * found["loss"], MOST_EXPLAINED)),
        weights=max(tolerance.weights, EXPLAINED * found["weights"]),
    )


@attrs.frozen(kw_only=True)
class WeightsDifference:
    """How far two checkpoints are apart."""

    largest: float
    """Largest absolute difference of a weight; infinite if they don't have the same weights."""

    where: str
    """The weight that has it."""


def compare(
    expected: list[Row], found: list[Row], weights: WeightsDifference, tolerance: Tolerance
) -> tuple[Column, ...]:
    """The run that left the rows `found`, compared with the one that left `expected`, step by step."""
    logged = _wrongly_logged(expected, found)
    samples = _largest(expected, found, ("samples",))
    losses = _others(expected, found) if tolerance == EXACT else _LOSSES
    return (
        _column("learning rate", _largest(expected, found, ("learning_rate",)), 0.0),
        _column("samples", (float("inf"), logged) if logged else samples, 0.0),
        _column("loss", _largest(expected, found, losses), tolerance.loss),
        _column("weights", (weights.largest, weights.where), tolerance.weights),
    )


def _column(name: str, difference: tuple[float, str], allowed: float) -> Column:
    return Column(name=name, difference=difference[0], where=difference[1], allowed=allowed)


def _wrongly_logged(expected: list[Row], found: list[Row]) -> str:
    """The first step that isn't logged exactly once and with its samples, in words; empty if all are."""
    times, by_step = Counter(row["step"] for row in found), _by_step(found)
    for row in expected:
        if times[row["step"]] != 1:
            return f"step {row['step']}, logged {times[row['step']]} times"
        if "samples" not in by_step[row["step"]]:
            return f"step {row['step']}, logged without its samples"
    return "" if len(found) == len(expected) else f"{len(found)} steps in place of {len(expected)}"


def _others(expected: list[Row], found: list[Row]) -> list[str]:
    """All that is logged of a step and has no column of its own."""
    names = {name for row in [*expected, *found] for name in row}
    return sorted(names - {"learning_rate", "samples", "step"})


def _largest(expected: list[Row], found: list[Row], names: Iterable[str]) -> tuple[float, str]:
    """The largest relative difference of these numbers between the same steps, and where it is."""
    return max(_differences(expected, found, names), key=lambda pair: pair[0], default=(0.0, ""))


def _differences(expected: list[Row], found: list[Row], names: Iterable[str]) -> Iterator[tuple[float, str]]:
    by_step = _by_step(found)
    for row in expected:
        if row["step"] in by_step:
            other = by_step[row["step"]]
            for name in names:
                if row.get(name) != other.get(name):
                    yield _relative(row.get(name), other.get(name)), f"{name} of step {row['step']}"


def _by_step(rows: list[Row]) -> dict[int, Row]:
    return {row["step"]: row for row in rows}


def _relative(one: Any, other: Any) -> float:
    if not all(isinstance(value, int | float) for value in (one, other)):
        return float("inf")
    difference = abs(one - other) / max(abs(one), abs(other))
    # What isn't a number is as far from anything as can be.
    return difference if difference == difference else float("inf")
