"""Schemes in llmcompressor's words. Imported when it is needed, by `quantization`, which keeps llmcompressor quiet."""

from functools import singledispatch
from typing import Any

from llmcompressor.modifiers import Modifier
from llmcompressor.modifiers.gptq import GPTQModifier
from llmcompressor.modifiers.quantization import QuantizationModifier
from llmcompressor.modifiers.transform.smoothquant import SmoothQuantModifier

from llmrecipe.errors import StageError
from llmrecipe.recipe.kinds import Rounding, Scheme
from llmrecipe.recipe.scheme import FP8, GPTQ, W8A8, Observer, RoundToNearest, WeightsOnly

# Those that look at a weight once, since all of it is there.
_OBSERVERS: dict[Observer, str] = {
    "minmax": "memoryless_minmax",
    "mse": "memoryless_mse",
    "imatrix_mse": "imatrix_mse",
}


@singledispatch
def modifiers(scheme: Scheme, ignore: list[str]) -> list[Modifier]:
    """What is done to a model, in order; layers named in `ignore` stay as they are.

    Raises:
        StageError: the scheme, or its way of rounding, has no function here.
    """
    raise StageError(f"nothing quantizes as {type(scheme).__name__}; register a function with `modifiers.register`")


@modifiers.register
def _weights_only(scheme: WeightsOnly, ignore: list[str]) -> list[Modifier]:
    # Not the presets of these names, which all have groups of 128.
    shared = (
        {"strategy": "channel"} if scheme.group_size is None else {"strategy": "group", "group_size": scheme.group_size}
    )
    weights = {
        "type": "int",
        "num_bits": scheme.num_bits,
        "symmetric": scheme.symmetric,
        "observer": _OBSERVERS[scheme.observer],
        **shared,
    }
    return [rounding(scheme.rounding, ignore, config_groups={"group_0": {"targets": ["Linear"], "weights": weights}})]


@modifiers.register
def _w8a8(scheme: W8A8, ignore: list[str]) -> list[Modifier]:
    smooth = SmoothQuantModifier(smoothing_strength=scheme.smoothing_strength)
    return [smooth, rounding(scheme.rounding, ignore, scheme="W8A8")]


@modifiers.register
def _fp8(scheme: FP8, ignore: list[str]) -> list[Modifier]:
    return [QuantizationModifier(scheme="FP8_DYNAMIC", ignore=ignore)]


@singledispatch
def rounding(how: Rounding, ignore: list[str], **what: Any) -> Modifier:
    """The modifier that rounds weights in this way."""
    raise StageError(f"nothing rounds by {type(how).__name__}; register a function with `rounding.register`")


@rounding.register
def _gptq(how: GPTQ, ignore: list[str], **what: Any) -> Modifier:
    order = "static" if how.activation_order else None
    return GPTQModifier(dampening_frac=how.dampening_frac, actorder=order, ignore=ignore, **what)


@rounding.register
def _round_to_nearest(how: RoundToNearest, ignore: list[str], **what: Any) -> Modifier:
    return QuantizationModifier(ignore=ignore, **what)
