"""What a model's answers were taken for, how sure it was of them and how good each is, as one picture."""

from collections import Counter
from html import escape

from llmrecipe.engines.evaluation.calibration import bins_of, calibration_error
from llmrecipe.engines.tasks.score import Score
from llmrecipe.engines.tasks.work import Verdict

_CELL, _LEFT, _TOP = 46, 130, 96
"""Pixels of a square, and beside and above all of them."""

_SIDE = 300
"""Pixels of the side of a field with axes."""

_BARS = 10

_COLOUR = "#1f77b4"

_STYLE = "font-family:sans-serif;font-size:11px"

_Panel = tuple[int, int, list[str]]
"""Its width and height in pixels, and its elements."""


def answers_of(verdict: Verdict, split: str) -> str:
    """An SVG.

    Where there are labels, what was taken for what, in percent of what there is of it; where likelihoods are told, how
    often answers are right that were held about as likely; else, how many examples have which score.
    """
    panels = [_taken(verdict.pairs)] if verdict.pairs else []
    if verdict.sure:
        panels.append(_sureness(verdict.sure))
    if not panels:
        panels = [_histogram(*next(iter(verdict.scores.items())))]
    x, parts = 0, []
    for width, _, elements in panels:
        parts += [f'<g transform="translate({x},24)">', *elements, "</g>"]
        x += width
    height = max(tall for _, tall, _ in panels) + 24
    body = "\n".join(
        [f'<rect width="{x}" height="{height}" fill="white"/>', _text(10, 18, f"{split} examples"), *parts]
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{x}" height="{height}" viewBox="0 0 {x} {height}" '
        f'style="{_STYLE}">\n{body}\n</svg>\n'
    )


def _taken(pairs: list[tuple[str, str, int]]) -> _Panel:
    rows = list(dict.fromkeys(own for own, _, _ in pairs))
    columns = list(dict.fromkeys(said for _, said, _ in pairs))
    counts = {(own, said): count for own, said, count in pairs}
    parts = [_text(10, 14, "what was taken for what, % of each row")]
    for across, said in enumerate(columns):
        x = _LEFT + _CELL * across + _CELL / 2
        parts.append(f'<g transform="rotate(-45 {x:.0f} {_TOP - 8})">{_text(x, _TOP - 8, said)}</g>')
    for down, own in enumerate(rows):
        y, total = _TOP + _CELL * down, sum(counts.get((own, said), 0) for said in columns)
        parts.append(_text(_LEFT - 8, y + _CELL / 2 + 4, f"{own} ({total:,})", "end"))
        for across, said in enumerate(columns):
            share = counts.get((own, said), 0) / total if total else 0.0
            shade = round(255 - 155 * share)
            x = _LEFT + _CELL * across
            parts.append(
                f'<rect x="{x}" y="{y}" width="{_CELL - 2}" height="{_CELL - 2}" fill="rgb({shade},{shade},255)"/>'
            )
            if share:
                parts.append(_text(x + _CELL / 2 - 1, y + _CELL / 2 + 3, f"{100 * share:.1f}", "middle"))
    return _LEFT + _CELL * max(len(columns), 4) + 60, _TOP + _CELL * len(rows) + 20, parts


def _sureness(sure: list[tuple[float, bool]]) -> _Panel:
    bins = bins_of(sure)
    title = f"how often right, by how sure: calibration error {100 * calibration_error(bins):.1f} %"
    parts = _field(title, "how likely answers were held, %", 100, 100)
    parts.append(f'<path d="M60 {_SIDE + 50} L{_SIDE + 60} 50" stroke="#bbbbbb" stroke-dasharray="4"/>')
    most = max(each.answers for each in bins)
    for each in bins:
        x, y = 60 + _SIDE * each.sure, 50 + _SIDE * (1 - each.right)
        # The area tells how many answers they are.
        radius = 3 + 9 * (each.answers / most) ** 0.5
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}" fill="{_COLOUR}" fill-opacity="0.7"/>')
    return _SIDE + 110, _SIDE + 90, parts


def _histogram(name: str, score: Score) -> _Panel:
    values = [above / below for above, below in zip(score.above, score.below, strict=True) if below]
    low, high = min([0.0, *values]), max([1e-9, *values])
    width = (high - low) / _BARS
    counts = Counter(min(int((value - low) / width), _BARS - 1) for value in values)
    most = max(counts.values(), default=1)
    parts = _field(f"examples by {name}", f"{low:.3g} to {high:.3g}", high, most, low)
    for bar, count in sorted(counts.items()):
        x, tall = 60 + _SIDE * bar / _BARS, _SIDE * count / most
        parts.append(
            f'<rect x="{x + 1:.1f}" y="{50 + _SIDE - tall:.1f}" width="{_SIDE / _BARS - 2:.1f}" height="{tall:.1f}" '
            f'fill="{_COLOUR}"/>'
        )
    return _SIDE + 110, _SIDE + 90, parts


def _field(title: str, below: str, right: float, top: float, left: float = 0.0) -> list[str]:
    """Axes with their ends."""
    base = _SIDE + 50
    return [
        _text(10, 14, title),
        f'<path d="M60 50 V{base} H{_SIDE + 60}" stroke="#333333" fill="none"/>',
        _text(54, 54, f"{top:,.4g}", "end"),
        _text(54, base + 4, "0", "end"),
        _text(60, base + 16, f"{left:.3g}", "middle"),
        _text(_SIDE + 60, base + 16, f"{right:.3g}", "middle"),
        _text(60 + _SIDE / 2, base + 32, below, "middle"),
    ]


def _text(x: float, y: float, text: str, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="#333333">{escape(text)}</text>'
