"""A picture of models: how much each keeps, and how large it is."""

import math
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

import attrs

_WIDTH, _HEIGHT = 800, 460

_LEFT, _RIGHT, _TOP, _BOTTOM = 70, 30, 50, 55
"""Pixels around the field of the points."""

_TICKS = 6

_CHARACTER = 6.2
"""Pixels that a letter of a label is wide, about."""

_STYLE = "font-family:sans-serif;font-size:12px"

_ON, _BEHIND = "#1f77b4", "#999999"
"""Colours of models that no other is both smaller and better than, and of the others."""


@attrs.frozen(kw_only=True)
class Point:
    """A model in the picture."""

    name: str

    size: float
    """Megabytes."""

    recovery: float
    """Percent of the reference's quality."""

    interval: tuple[float, float] | None
    """The ends of its 95 % interval."""

    def is_behind(self, other: "Point") -> bool:
        """Whether the other is at least as small and as good, and one of both more."""
        return (
            other.size <= self.size
            and other.recovery >= self.recovery
            and (other.size, other.recovery) != (self.size, self.recovery)
        )


@attrs.frozen(kw_only=True)
class _Axis:
    """Numbers to pixels."""

    low: float
    high: float
    first: float
    last: float

    @classmethod
    def of(cls, values: Sequence[float], first: float, last: float) -> "_Axis":
        low, high = min(values), max(values)
        margin = 0.08 * (high - low) or max(abs(high), 1.0) * 0.05
        return cls(low=low - margin, high=high + margin, first=first, last=last)

    def __call__(self, value: float) -> float:
        return self.first + (value - self.low) / (self.high - self.low) * (self.last - self.first)

    def ticks(self) -> list[tuple[float, str]]:
        """Round numbers, and how they are written."""
        rough = (self.high - self.low) / _TICKS
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(step * power for step in (1, 2, 5, 10) if step * power >= rough)
        digits = max(0, -math.floor(math.log10(step)))
        count = range(math.ceil(self.low / step), math.floor(self.high / step) + 1)
        return [(index * step, f"{index * step:,.{digits}f}") for index in count]


def points(compared: Mapping[str, Mapping[str, Any]], reference: str) -> list[Point]:
    """The models that have a recovery, and the reference, which has kept everything."""
    found = []
    for name, numbers in compared.items():
        recovery = 100.0 if name == reference else numbers.get("recovery_percent")
        if recovery is not None:
            ends = [numbers[key] for key in ("recovery_low_percent", "recovery_high_percent") if key in numbers]
            interval = (ends[0], ends[1]) if ends else None
            found.append(Point(name=name, size=numbers["size_mb"], recovery=recovery, interval=interval))
    return found


def draw(models: Sequence[Point], title: str) -> str:
    """An SVG: models by size and recovery, with 95 % intervals; those that another is smaller and better than are grey.

    Equal models give equal bytes.
    """
    x = _Axis.of([model.size for model in models], _LEFT, _WIDTH - _RIGHT)
    ends = [end for model in models for end in (model.recovery, *(model.interval or ()))]
    y = _Axis.of(ends, _HEIGHT - _BOTTOM, _TOP)
    parts = [*_frame(x, y, title)]
    for model in models:
        parts += _point(model, x, y, _BEHIND if any(map(model.is_behind, models)) else _ON)
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{_HEIGHT}" '
        f'viewBox="0 0 {_WIDTH} {_HEIGHT}" style="{_STYLE}">\n{body}\n</svg>\n'
    )


def _frame(x: _Axis, y: _Axis, title: str) -> Iterator[str]:
    yield f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>'
    yield _text(_WIDTH / 2, 24, title, "middle", size=15)
    for value, label in x.ticks():
        yield f'<path d="M{x(value):.1f} {_TOP}V{_HEIGHT - _BOTTOM}" stroke="#eeeeee"/>'
        yield _text(x(value), _HEIGHT - _BOTTOM + 18, label, "middle")
    for value, label in y.ticks():
        yield f'<path d="M{_LEFT} {y(value):.1f}H{_WIDTH - _RIGHT}" stroke="#eeeeee"/>'
        yield _text(_LEFT - 8, y(value) + 4, label, "end")
    yield _text((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 12, "size of the weights, MB", "middle")
    yield _text(_LEFT - 55, _TOP - 14, "recovery, %", "start")


def _point(model: Point, x: _Axis, y: _Axis, colour: str) -> Iterator[str]:
    across, up = x(model.size), y(model.recovery)
    if model.interval is not None:
        low, high = model.interval
        yield f'<path d="M{across:.1f} {y(low):.1f}V{y(high):.1f}" stroke="{colour}" stroke-width="2"/>'
    yield f'<circle cx="{across:.1f}" cy="{up:.1f}" r="5" fill="{colour}"/>'
    fits = across + 10 + _CHARACTER * len(model.name) < _WIDTH
    yield _text(across + (9 if fits else -9), up - 6, model.name, "start" if fits else "end", colour)


def _text(x: float, y: float, text: str, anchor: str, colour: str = "#333333", size: int = 12) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}" font-size="{size}">{escape(text)}</text>'
    )
