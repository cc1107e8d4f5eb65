"""How good models are at their tasks, class by class."""

from collections.abc import Iterator, Mapping
from typing import Any

from llmrecipe.cli.table import aligned

_KEYS = ("precision", "recall", "f1", "support")

_MEANS = ("micro", "macro", "weighted")


def reports(models: Mapping[str, dict[str, Any]]) -> str:
    """A table for each report of each model: precision, recall, F1 and support of every class, and their means."""
    return "\n\n".join(
        _table(f"{name}: {what}", found) for name, numbers in models.items() for what, found in _found(numbers)
    )


def _found(numbers: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The reports among a model's numbers, and what each is of."""
    for name, value in numbers.items():
        if isinstance(value, dict) and "classes" in value:
            yield f"{above}{name}", value
        elif isinstance(value, dict):
            yield from _found(value, f"{above}{name} ")


def _table(title: str, found: Mapping[str, Any]) -> str:
    rows = [(name, row) for name, row in found["classes"].items()]
    rows += [(mean, found[mean]) for mean in _MEANS]
    cells = [[title, *_KEYS, ""]]
    for name, row in rows:
        cells.append([name, *(f"{row[key]:.4f}" for key in _KEYS[:-1]), f"{row['support']:,}", ""])
    return aligned(cells)
