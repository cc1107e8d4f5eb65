"""What measures of the user's own give."""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from llmrecipe.errors import StageError
from llmrecipe.recipe.custom_measure import CustomMeasure, CustomScores, MeasuredModel

HELPS = "most often by a learning rate that is too high; a lower one, or a longer warm-up, may help"
"""How a training diverges."""


class Measured(MeasuredModel, Protocol):
    """A model, and where it lies."""

    @property
    def directory(self) -> Path:
        """Its folder."""


def numbers(asked: CustomMeasure, model: Measured) -> dict[str, float]:
    """The numbers of a model by name.

    Raises:
        StageError: they are no finite numbers by name.
    """
    name = f"{type(asked).__name__}.measure"
    with _told(name, model):
        found = asked.measure(model)
    return _finite(found, name, model)


def scores(asked: CustomScores, model: Measured) -> list[dict[str, float]]:
    """The scores of each document by name.

    Raises:
        StageError: they are none, others than were announced, or no finite numbers of at least 0.
    """
    name, rows = f"{type(asked).__name__}.scores", []
    with _told(name, model):
        for row in asked.scores(model):
            found = _finite(row, name, model)
            if found.keys() != asked.better.keys():
                raise StageError(f"{name} gave {row!r}, and `better` names {', '.join(asked.better)}; both must agree")
            if min(found.values()) < 0:
                raise StageError(f"{name} gave {row!r}; less than 0 has no ratio that says what is kept of it")
            rows.append(found)
    if not rows:
        raise StageError(f"{model.directory}: {name} gave no document; have it score some")
    return rows


@contextmanager
def _told(name: str, model: Measured) -> Iterator[None]:
    try:
        yield
    except OverflowError as error:
        raise StageError(
            f"{model.directory}: {name} computes a number that is too large ({error}), such as exp of the loss "
            f"of a model whose training has diverged; {HELPS}"
        ) from error


def _finite(found: Any, name: str, model: Measured) -> dict[str, float]:
    if not isinstance(found, Mapping):
        raise StageError(f"{name} returned {found!r}; it must return a dict of numbers by name")
    for key, value in found.items():
        # NumPy's and PyTorch's numbers have `__float__` as well.
        if not isinstance(key, str) or not hasattr(value, "__float__"):
            raise StageError(f"{name} returned {key!r}: {value!r}; it must return finite numbers by name")
        if not math.isfinite(value):
            raise StageError(
                f"{model.directory}: {name} returned {key!r}: {value!r}, and must return finite numbers; exp "
                f"of the loss is none where the training has diverged; {HELPS}"
            )
    return {key: float(value) for key, value in found.items()}
