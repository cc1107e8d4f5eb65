"""A table of numbers, in which each is written as its name asks for."""

from typing import Any

import attrs

COLUMNS = {
    "perplexity": ("perplexity", "{:,.2f}"),
    "bits_per_byte": ("bits/byte", "{:.3f}"),
    "masked_perplexity": ("masked perplexity", "{:,.2f}"),
    "masked_accuracy_percent": ("accuracy", "{:.1f} %"),
    "pseudo_perplexity": ("pseudo-perplexity", "{:,.2f}"),
    "training_loss": ("training loss", "{:.4f}"),
    "validation_loss": ("validation loss", "{:.4f}"),
    "training_seconds": ("training", "{:,.0f} s"),
    "tokens_per_second": ("speed", "{:,.0f} tokens/s"),
    "recovery_percent": ("recovery", "{:.1f} %"),
    "text_lost_percent": ("text lost", "{:.1f} %"),
    "size_mb": ("size", "{:,.2f} MB"),
}
"""The title and form of a number, by its name; others are shown by their names, in front of recovery."""

_OTHER = "{:.4g}"

_LONGEST = 1e12

_GROUPS = ("corpora", "unigram")
"""What is no measure's group of numbers."""


@attrs.frozen
class Column:
    """A column of numbers."""

    group: str
    """The name of the measure that they are a group of; empty for a model's own."""

    key: str
    """Their name."""

    @property
    def title(self) -> str:
        """What is written above it: `web-perplexity: bits/byte`."""
        title, _ = COLUMNS.get(self.key, (self.key, _OTHER))
        return f"{self.group}: {title}" if self.group else title

    @property
    def place(self) -> tuple[bool, float]:
        """Known numbers in their order, others in front of recovery and size, groups last."""
        known = list(COLUMNS)
        return bool(self.group), known.index(self.key) if self.key in known else known.index("recovery_percent") - 0.5

    def cell(self, numbers: dict[str, Any]) -> str:
        """The number of a model as text; empty if it has none."""
        found = numbers.get(self.group, {}) if self.group else numbers
        if self.key not in found:
            return ""
        _, form = COLUMNS.get(self.key, (self.key, _OTHER))
        by = " by byte" if self.key == "recovery_percent" and found.get("recovery_by") == "byte" else ""
        # A model that has diverged has numbers of hundreds of digits.
        return (form if abs(found[self.key]) < _LONGEST else _OTHER).format(found[self.key]) + by


def _columns(rows: list[dict[str, Any]]) -> list[Column]:
    found: dict[Column, None] = {}
    for numbers in rows:
        groups = {"": numbers} | {
            name: value for name, value in numbers.items() if isinstance(value, dict) and name not in _GROUPS
        }
        for group, values in groups.items():
            found |= {Column(group, key): None for key, value in values.items() if isinstance(value, int | float)}
    return sorted(found, key=lambda column: column.place)


def table(title: str, rows: list[tuple[str, dict[str, Any], str]]) -> str:
    """A table of numbers: what each row is of, its numbers as measures have them, and a remark."""
    columns = _columns([numbers for _, numbers, _ in rows])
    cells = [[title, *(column.title for column in columns), ""]]
    for name, numbers, remark in rows:
        cells.append([name, *(column.cell(numbers) for column in columns), remark])
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = []
    for first, *middle, last in cells:
        aligned = (cell.rjust(width) for cell, width in zip(middle, widths[1:-1], strict=True))
        lines.append("  ".join([first.ljust(widths[0]), *aligned, last]).rstrip())
    return "\n".join(lines)
