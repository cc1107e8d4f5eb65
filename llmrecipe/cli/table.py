"""A table of numbers, in which each is written as its name asks for."""

from collections.abc import Mapping
from typing import Any

import attrs

from llmrecipe.recipe.measure import RECOVERIES

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
    "entity_f1": ("entity F1", "{:.4f}"),
    "entity_macro_f1": ("entity macro F1", "{:.4f}"),
    "word_micro_f1": ("word micro F1", "{:.4f}"),
    "word_macro_f1": ("word macro F1", "{:.4f}"),
    "accuracy": ("accuracy", "{:.4f}"),
    "micro_f1": ("micro F1", "{:.4f}"),
    "macro_f1": ("macro F1", "{:.4f}"),
    "calibration_error": ("calibration error", "{:.4f}"),
    "examples": ("examples", "{:,}"),
    "cut_examples": ("cut", "{:,}"),
    "text_lost_percent": ("text lost", "{:.1f} %"),
    "size_mb": ("size", "{:,.2f} MB"),
    "bits_per_weight": ("bits/weight", "{:.2f}"),
    "peak_memory_mb": ("peak memory", "{:,.0f} MB"),
}
"""The title and form of a number, by its name; others are shown by their names, in front of recovery."""

_OTHER = "{:.4g}"

_LONGEST = 1e12

_ENDS = ("recovery_low_percent", "recovery_high_percent")

_BESIDE = (*_ENDS, "recovery_documents", "share")
"""Numbers that have no column of their own."""

_GROUPS = ("corpora", "unigram", RECOVERIES)
"""What is no measure's group of numbers."""


@attrs.frozen
class Column:
    """A column of numbers."""

    group: str
    """The name of the measure that they are a group of; empty for a model's own."""

    key: str
    """Their name."""

    of: str = ""
    """The name of another number that they are the recovery of; empty for any other number."""

    @property
    def title(self) -> str:
        """What is written above it: `web-perplexity: bits/byte`."""
        title, _ = COLUMNS.get(self.key, (self.key, _OTHER))
        title = f"{self.of} {title}" if self.of else title
        return f"{self.group}: {title}" if self.group else title

    @property
    def place(self) -> tuple[bool, float]:
        """Known numbers in their order, others in front of recovery and size, groups last."""
        known = list(COLUMNS)
        return bool(self.group), known.index(self.key) if self.key in known else known.index("recovery_percent") - 0.5

    def cell(self, numbers: dict[str, Any]) -> str:
        """The number of a model as text; empty if it has none."""
        found = numbers.get(self.group, {}) if self.group else numbers
        found = found.get(RECOVERIES, {}).get(self.of, {}) if self.of else found
        if self.key not in found:
            return ""
        _, form = COLUMNS.get(self.key, (self.key, _OTHER))
        # A model that has diverged has numbers of hundreds of digits.
        form = form if abs(found[self.key]) < _LONGEST else _OTHER
        ends = found.get("intervals", {}).get(self.key)
        more = f" ({form.format(ends['low'])}–{form.format(ends['high'])})" if ends else ""
        return form.format(found[self.key]) + (_of_recovery(found) if self.key == "recovery_percent" else more)


def _of_recovery(numbers: dict[str, Any]) -> str:
    """Its 95 % interval, and its unit where that isn't a token."""
    ends = [numbers[key] for key in _ENDS if key in numbers]
    interval = f" ({ends[0]:.1f}–{ends[1]:.1f})" if ends else ""
    return interval + (" by byte" if numbers.get("recovery_by") == "byte" else "")


def _columns(rows: list[dict[str, Any]]) -> list[Column]:
    found: dict[Column, None] = {}
    for numbers in rows:
        for group, values in _groups(numbers).items():
            found |= {Column(group, key): None for key, value in values.items() if _is_shown(key, value)}
            found |= {Column(group, "recovery_percent", of): None for of in values.get(RECOVERIES, {})}
    return sorted(found, key=lambda column: column.place)


def _groups(numbers: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """A model's own numbers, below "", and those of measures that have a group, by name."""
    named = {name: value for name, value in numbers.items() if isinstance(value, dict) and name not in _GROUPS}
    return {"": numbers} | named


def _is_shown(key: str, value: Any) -> bool:
    return isinstance(value, int | float) and key not in _BESIDE


def table(title: str, rows: list[tuple[str, dict[str, Any], str]]) -> str:
    """A table of numbers: what each row is of, its numbers as measures have them, and a remark."""
    columns = _columns([numbers for _, numbers, _ in rows])
    cells = [[title, *(column.title for column in columns), ""]]
    for name, numbers, remark in rows:
        cells.append([name, *(column.cell(numbers) for column in columns), remark])
    return aligned(cells)


def recoveries(models: Mapping[str, dict[str, Any]]) -> str:
    """Tables of how much of the first model's quality each has, corpus by corpus, for each measure of a mixture.

    It is empty where there is none; the first row has the perplexity that is kept.
    """
    groups = dict.fromkeys(group for numbers in models.values() for group in _groups(numbers))
    tables = (
        _by_corpus(
            group, {name: _groups(numbers).get(group, {}).get("corpora", {}) for name, numbers in models.items()}
        )
        for group in groups
    )
    return "\n\n".join(filter(None, tables))


def _by_corpus(group: str, models: Mapping[str, dict[str, Any]]) -> str:
    """The table of one measure, from the numbers of each model's corpora."""
    reference, *others = models
    corpora = models[reference]
    cells = [[f"{group}: recovery by corpus" if group else "recovery by corpus", *corpora, ""]]
    cells.append([f"{reference} (perplexity)", *map(_perplexity, corpora.values()), ""])
    for name in others:
        found = [models[name].get(corpus, {}) for corpus in corpora]
        if any("recovery_percent" in numbers for numbers in found):
            cells.append([name, *(Column("", "recovery_percent").cell(numbers) for numbers in found), ""])
    return aligned(cells) if len(cells) > 2 else ""


def _perplexity(numbers: dict[str, Any]) -> str:
    key = next((key for key in ("perplexity", "masked_perplexity") if key in numbers), None)
    return "" if key is None else Column("", key).cell(numbers)


def aligned(cells: list[list[str]]) -> str:
    """Rows of a name, numbers and a remark."""
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = []
    for first, *middle, last in cells:
        aligned = (cell.rjust(width) for cell, width in zip(middle, widths[1:-1], strict=True))
        lines.append("  ".join([first.ljust(widths[0]), *aligned, last]).rstrip())
    return "\n".join(lines)
