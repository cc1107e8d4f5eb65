"""Schemes in llmcompressor's words. Imported when it is needed, by `quantization`, which keeps llmcompressor quiet."""

from collections.abc import Iterable
from functools import singledispatch
from typing import Any

from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme, preset_name_to_scheme
from llmcompressor.modifiers import Modifier
from llmcompressor.modifiers.gptq import GPTQModifier
from llmcompressor.modifiers.quantization import QuantizationModifier
from llmcompressor.modifiers.transform.smoothquant import SmoothQuantModifier

from llmrecipe.errors import StageError
from llmrecipe.recipe.kinds import Rounding, Scheme
from llmrecipe.recipe.scheme import FP8, GPTQ, W8A8, Observer, RoundToNearest, WeightsOnly
from llmrecipe.sections import QuantizeSection

# Those that look at a weight once, since all of it is there.
_OBSERVERS: dict[Observer, str] = {
    "minmax": "memoryless_minmax",
    "mse": "memoryless_mse",
    "imatrix_mse": "imatrix_mse",
}


def modifiers(section: QuantizeSection, layers: Iterable[str], ignore: list[str]) -> list[Modifier]:
    """What is done to a model, in order.

    Args:
        section: the number formats.
        layers: names of the model's linear layers.
        ignore: those of them that stay as they are, whatever the section says.

    Raises:
        StageError: a scheme, or its way of rounding, has no function here, or an override matches no layer.
    """
    scheme, left, kept = section.scheme, [name for name in layers if name not in ignore], list(ignore)
    groups: dict[str, QuantizationScheme] = {}
    for index, override in enumerate(section.overrides):
        matched = [name for name in left if override.matches(name)]
        left = [name for name in left if name not in matched]
        if not matched:
            raise StageError(f"overrides[{index}].layers: {override.layers!r} matches no linear layer of this model")
        if override.scheme is None:
            kept += matched
        else:
            groups[f"group_{index}"] = formats(override.scheme, matched)
    # By their names beside others that are named: some readers ask for a class of layers before they ask for the parts
    # of a layer that they have joined, as vLLM joins query, key and value.
    groups[f"group_{len(section.overrides)}"] = formats(scheme, left if section.overrides else ["Linear"])
    how = getattr(scheme, "rounding", RoundToNearest())
    return [*smoothing(scheme), rounding(how, ignore=kept, config_groups=groups)]


@singledispatch
def formats(scheme: Scheme, layers: list[str]) -> QuantizationScheme:
    """Number formats of the layers that `layers` names."""
    raise StageError(f"nothing quantizes as {type(scheme).__name__}; register a function with `formats.register`")


@formats.register
def _weights_only(scheme: WeightsOnly, layers: list[str]) -> QuantizationScheme:
    # Not the presets of these names, which all have groups of 128.
    weights = QuantizationArgs(
        type="int",
        num_bits=scheme.num_bits,
        symmetric=scheme.symmetric,
        strategy="channel" if scheme.group_size is None else "group",
        group_size=scheme.group_size,
        observer=_OBSERVERS[scheme.observer],
    )
    return QuantizationScheme(targets=layers, weights=weights)


@formats.register
def _w8a8(scheme: W8A8, layers: list[str]) -> QuantizationScheme:
    return preset_name_to_scheme("W8A8", layers)


@formats.register
def _fp8(scheme: FP8, layers: list[str]) -> QuantizationScheme:
    return preset_name_to_scheme("FP8_DYNAMIC", layers)


@singledispatch
def smoothing(scheme: Scheme) -> list[Modifier]:
    """What is done to the model before it is rounded."""
    return []


@smoothing.register
def _even_out(scheme: W8A8) -> list[Modifier]:
    return [SmoothQuantModifier(smoothing_strength=scheme.smoothing_strength)]


@singledispatch
def rounding(how: Rounding, **what: Any) -> Modifier:
    """The modifier that rounds weights in this way."""
    raise StageError(f"nothing rounds by {type(how).__name__}; register a function with `rounding.register`")


@rounding.register
def _gptq(how: GPTQ, **what: Any) -> Modifier:
    order = "static" if how.activation_order else None
    return GPTQModifier(dampening_frac=how.dampening_frac, actorder=order, **what)


@rounding.register
def _round_to_nearest(how: RoundToNearest, **what: Any) -> Modifier:
    return QuantizationModifier(**what)
