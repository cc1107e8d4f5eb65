"""Which layers of a quantized model lose most, and what would help."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import attrs

_BITS = 8
"""Of a layer that is overridden: of its error, next to nothing is left."""

_SHOWN = 2
"""Single layers, and names."""

_LEAST = 0.05
"""Share of a model's error that is worth an override."""


@attrs.frozen(kw_only=True)
class Proposal:
    """An override, and what it does to a model."""

    layers: str
    """The layers, as `scheme.Override` takes them."""

    removed: float
    """The share of the error of all layers that these have."""

    bits: float
    """What 8 bits of theirs add to the bits of a weight, in the mean over all linear layers."""


def proposals(rows: Sequence[Mapping[str, Any]]) -> list[Proposal]:
    """The overrides that remove most for their bits, best first: single layers, then all of a name.

    Args:
        rows: those of `layers.jsonl`; `measure.LayerErrors` says what they hold.
    """
    low = [row for row in rows if row["bits"] < _BITS]
    names: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for row in low:
        names[row["layer"].rpartition(".")[2]].append(row)
    single = [_proposal(row["layer"], [row], rows) for row in low]
    return [*_best(single), *_best([_proposal(name, group, rows) for name, group in names.items()])]


def told(model: str, found: Iterable[Proposal]) -> list[str]:
    """Lines about a model; none if nothing would help."""
    lines = [
        f'  {100 * each.removed:.0f} % of its error for {each.bits:.2f} bits a weight more: scheme.Override(layers="'
        f'{each.layers}", scheme=scheme.W8A16())'
        for each in found
    ]
    return [f"overrides that {model} gains most from:", *lines] if lines else []


def _proposal(name: str, group: Sequence[Mapping[str, Any]], rows: Sequence[Mapping[str, Any]]) -> Proposal:
    error, total = (sum(row["stream_error"] for row in each) for each in (group, rows))
    added = sum((_BITS - row["bits"]) * row["weights"] for row in group)
    return Proposal(
        layers=name, removed=error / total if total else 0.0, bits=added / sum(row["weights"] for row in rows)
    )


def _best(found: Sequence[Proposal]) -> list[Proposal]:
    worthwhile = [each for each in found if each.removed >= _LEAST]
    return sorted(worthwhile, key=lambda each: (-each.removed / each.bits, each.layers))[:_SHOWN]
