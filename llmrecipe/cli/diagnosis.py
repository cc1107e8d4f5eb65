"""Which layers of a quantized model lose most, and what would help."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import attrs

from llmrecipe.recipe.floats import NVFP4, NVFP4A16
from llmrecipe.recipe.integers import W8A16
from llmrecipe.recipe.schema import as_written
from llmrecipe.recipe.scheme import Override
from llmrecipe.sections import QuantizeSection

_BITS = 8
"""Of a layer that is overridden: of its error, next to nothing is left."""

_SHOWN = 2
"""Single layers, and names."""

_LEAST = 0.05
"""Share of a model's error that is worth an override."""


@attrs.frozen(kw_only=True)
class Proposal:
    """An override, and what it does to a model."""

    override: Override
    """The layers, and 8 bits for them."""

    removed: float
    """The share of the error of all layers that these have."""

    bits: float
    """What 8 bits of theirs add to the bits of a weight, in the mean over all linear layers."""


def proposals(rows: Sequence[Mapping[str, Any]], asked: QuantizeSection) -> list[Proposal]:
    """The overrides that remove most for their bits, best first: single layers, then all of a name.

    Args:
        rows: those of `layers.jsonl`; `measure.LayerErrors` says what they hold.
        asked: how the model was quantized: overrides are rounded in the same way.
    """
    if isinstance(asked.scheme, NVFP4 | NVFP4A16):
        # Layers that share a factor can't have it one by one.
        return []
    how = getattr(asked.scheme, "rounding", None)
    eight = W8A16() if how is None else W8A16(rounding=how)
    low = [row for row in rows if row["bits"] < _BITS]
    names: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for row in low:
        names[row["layer"].rpartition(".")[2]].append(row)
    single = [_proposal(Override(layers=row["layer"], scheme=eight), [row], rows) for row in low]
    alike = [_proposal(Override(layers=name, scheme=eight), group, rows) for name, group in names.items()]
    return [*_best(single), *_best(alike)]


def told(model: str, found: Iterable[Proposal]) -> list[str]:
    """Lines about a model; none if nothing would help."""
    lines = [
        f"  {_word(each.override)}: about {100 * each.removed:.0f} % of its error, for {each.bits:.2f} bits a weight"
        for each in found
    ]
    return [f"overrides that {model} gains most from:", *lines] if lines else []


def _word(override: Override) -> str:
    """As a recipe has it."""
    scheme = W8A16()
    rounding = getattr(override.scheme, "rounding", scheme.rounding)
    more = "" if rounding == scheme.rounding else f"rounding=scheme.{as_written(rounding)}"
    return f'scheme.Override(layers="{override.layers}", scheme=scheme.W8A16({more}))'


def _proposal(override: Override, group: Sequence[Mapping[str, Any]], rows: Sequence[Mapping[str, Any]]) -> Proposal:
    error, total = (sum(row["stream_error"] for row in each) for each in (group, rows))
    added = sum((_BITS - row["bits"]) * row["weights"] for row in group)
    return Proposal(
        override=override, removed=error / total if total else 0.0, bits=added / sum(row["weights"] for row in rows)
    )


def _best(found: Sequence[Proposal]) -> list[Proposal]:
    worthwhile = [each for each in found if each.removed >= _LEAST]
    return sorted(worthwhile, key=lambda each: (-each.removed / each.bits, each.override.layers))[:_SHOWN]
