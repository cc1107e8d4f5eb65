"""What llmcompressor does instead of what was asked. Imported when it is needed, as `modifiers` is."""

import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import attrs
import torch
from compressed_tensors.utils import patch_attr
from llmcompressor.entrypoints import utils as entrypoint
from llmcompressor.modifiers import Modifier
from llmcompressor.modifiers.gptq import base, gptq_quantize
from llmcompressor.modifiers.transform.awq import AWQModifier
from llmcompressor.modifiers.transform.awq.dynamic_mappings import AWQ_DYNAMIC_MAPPING_REGISTRY
from llmcompressor.modifiers.transform.awq.mappings import AWQ_MAPPING_REGISTRY
from llmcompressor.modifiers.transform.smoothquant import SmoothQuantModifier
from llmcompressor.modifiers.transform.smoothquant.dynamic_mappings import SMOOTHQUANT_DYNAMIC_MAPPING_REGISTRY
from llmcompressor.modifiers.transform.smoothquant.utils import MAPPINGS_REGISTRY
from loguru import logger
from transformers import PreTrainedModel

from llmrecipe.engines.compression.rotation import ROTATED, Rotation
from llmrecipe.errors import StageError

_EXPECTED = re.compile(
    # At every start: a CPU is what was asked for, and nothing is tokenized here.
    "No accelerator available|Disabling tokenizer parallelism"
    # By AWQ, of every model with fewer heads of values than of queries, and of layers that an override leaves.
    r"|\d+ mappings were skipped due to incompatible shapes|Skipping .* because no layers are targeted"
)

_SAID_BY_US = "Hessian inversion failed"


@attrs.define
class Fallbacks:
    """Layers that GPTQ was to round, those of them that were rounded to nearest, and whatever else was warned of."""

    layers: int = 0
    rounded_to_nearest: int = 0
    warnings: Counter[str] = attrs.field(factory=Counter)
    """llmcompressor's messages, each with how often it said so."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What a model's card says of it."""
        warned = (
            f"llmcompressor warned{f' {count} times' if count > 1 else ''}: {message}"
            for message, count in self.warnings.items()
        )
        return (*([str(self)] if self.rounded_to_nearest else []), *warned)

    def __str__(self) -> str:
        """Where GPTQ failed, and why."""
        return (
            f"GPTQ failed for {self.rounded_to_nearest} of {self.layers} layers, which are rounded to nearest instead: "
            "the calibration text is too little or too repetitive for its dampening_frac, or nothing of it reaches them"
        )


def is_for_users(record: Any) -> bool:
    """Whether a message of llmcompressor's log says something that the recipe doesn't."""
    # METRIC, a level of llmcompressor's own above WARNING, carries times and errors of each layer.
    message = record["message"]
    return record["level"].name != "METRIC" and not (_EXPECTED.match(message) or message.startswith(_SAID_BY_US))


def refuse_guesses(modifiers: list[Modifier], model: PreTrainedModel) -> None:
    """Refuse to even out or rotate activations where llmcompressor would guess which norm is before which layers.

    Raises:
        StageError: it doesn't know the model's class.
    """
    name = type(model).__name__
    for modifier in modifiers:
        if isinstance(modifier, SmoothQuantModifier):
            known = {*MAPPINGS_REGISTRY, *SMOOTHQUANT_DYNAMIC_MAPPING_REGISTRY}
        elif isinstance(modifier, AWQModifier):
            known = {*AWQ_MAPPING_REGISTRY, *AWQ_DYNAMIC_MAPPING_REGISTRY}
        elif isinstance(modifier, Rotation):
            known = {*ROTATED}
        else:
            continue
        if name not in known and modifier.mappings is None:
            raise StageError(
                f"{name}: llmcompressor doesn't know which norms are before which layers of it, and would take them "
                "for Llama's; use a scheme that doesn't even out activations, such as W8A16 or FP8, rounded by "
                "something else than AWQ, and rotate nothing"
            )


@contextmanager
def counted() -> Iterator[Fallbacks]:
    """Count while llmcompressor quantizes; it only logs that it couldn't invert a Hessian and rounds to nearest.

    A column of weights whose input is zero in all of the calibration text is rounded to nearest, which is what GPTQ's
    dampened Hessian says of it; llmcompressor would make it zero, for whatever other text has there.
    """
    found, rounded, factorized = Fallbacks(), base.quantize_weight, gptq_quantize.factorize_hessian

    def counting(*args: Any, **options: Any) -> Any:
        result = rounded(*args, **options)
        *_, fell_back = result
        found.layers += len(fell_back)
        found.rounded_to_nearest += int(fell_back.sum())
        return result

    def without_zeros(weights: torch.Tensor, hessians: torch.Tensor, dampening: float, fell_back: torch.Tensor) -> Any:
        diagonal = hessians.diagonal(dim1=-2, dim2=-1)
        is_zero = diagonal == 0
        # As llmcompressor does; but it would see by a zero which columns to make zero.
        diagonal.masked_fill_(is_zero, 1.0)
        result = factorized(weights, hessians, dampening, fell_back)
        fell_back |= is_zero.all(-1)
        return result

    def heard(message: Any) -> None:
        found.warnings[" ".join(message.record["message"].split())] += 1

    handler = logger.add(heard, level="WARNING", filter=is_for_users)
    try:
        with (
            patch_attr(base, "quantize_weight", counting),
            patch_attr(gptq_quantize, "factorize_hessian", without_zeros),
            # In a process with a group of ranks it would set up its log anew, without what hears it here.
            patch_attr(entrypoint, "configure_distributed_logger", lambda: None),
        ):
            yield found
    finally:
        logger.remove(handler)
