"""What llmcompressor does instead of what was asked. Imported when it is needed, as `modifiers` is."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import attrs
from compressed_tensors.utils import patch_attr
from llmcompressor.modifiers.gptq import base


@attrs.define
class Fallbacks:
    """Layers that GPTQ was to round, and those of them that were rounded to nearest."""

    layers: int = 0
    rounded_to_nearest: int = 0

    def __str__(self) -> str:
        """What happened, and why."""
        return (
            f"GPTQ failed for {self.rounded_to_nearest} of {self.layers} layers, which are rounded to nearest instead: "
            "the calibration text is too little or too repetitive for its dampening_frac"
        )


@contextmanager
def counted() -> Iterator[Fallbacks]:
    """Count while llmcompressor quantizes; it only logs that it couldn't invert a Hessian and rounds to nearest."""
    found, rounded = Fallbacks(), base.quantize_weight

    def counting(*args: Any, **options: Any) -> Any:
        result = rounded(*args, **options)
        *_, fell_back = result
        found.layers += len(fell_back)
        found.rounded_to_nearest += int(fell_back.sum())
        return result

    with patch_attr(base, "quantize_weight", counting):
        yield found
