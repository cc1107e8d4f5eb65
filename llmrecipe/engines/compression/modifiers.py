"""Schemes in llmcompressor's words. Imported when it is needed, by `quantization`, which keeps llmcompressor quiet."""

from collections.abc import Iterable
from functools import singledispatch
from typing import Any, Literal

from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme, preset_name_to_scheme
from llmcompressor.modifiers import Modifier
from llmcompressor.modifiers.gptq import GPTQModifier
from llmcompressor.modifiers.quantization import QuantizationModifier
from llmcompressor.modifiers.transform.awq import AWQModifier
from llmcompressor.modifiers.transform.smoothquant import SmoothQuantModifier

from llmrecipe.engines.compression.oneshot import ours
from llmrecipe.engines.compression.rotation import Rotation, block_of
from llmrecipe.errors import StageError
from llmrecipe.recipe.floats import FP8, FP8Block, Microscaled
from llmrecipe.recipe.integers import W4AFP8, W8A8, WeightsOnly
from llmrecipe.recipe.kinds import Rounding, Scheme
from llmrecipe.recipe.rounding import AWQ, GPTQ, AutoRound, Observer, RoundToNearest
from llmrecipe.recipe.scheme_checks import rounding_of
from llmrecipe.sections import QuantizeSection

# Those that look at a weight once, since all of it is there.
_OBSERVERS: dict[Observer, str] = {
    "minmax": "memoryless_minmax",
    "mse": "memoryless_mse",
    "imatrix_mse": "imatrix_mse",
}

_CACHES: dict[Literal["float8"] | None, QuantizationArgs | None] = {
    None: None,
    "float8": QuantizationArgs(
        num_bits=8,
        type="float",
        strategy="tensor",
        symmetric=True,
        dynamic=False,
        # By default it would be an average over the text, in its order, that cuts off what is larger.
        observer="static_minmax",
    ),
}


def modifiers(section: QuantizeSection, layers: Iterable[str], ignore: list[str], width: int) -> list[Modifier]:
    """What is done to a model, in order.

    Args:
        section: the number formats.
        layers: names of the model's linear layers but the output layer.
        ignore: names of the output layer, which stays as it is.
        width: that of the residual stream.

    Raises:
        StageError: a scheme, or its way of rounding, has no function here, or an override matches no layer.
    """
    scheme, cache = section.scheme, _CACHES[section.kv_cache]
    left, kept = list(layers), list(ignore)
    first: list[Modifier] = [Rotation(transform_block_size=block_of(width))] if section.rotate else []
    if scheme is None:
        return [*first, QuantizationModifier(targets=[], ignore=kept, kv_cache_scheme=cache)]
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
    how = rounding_of(scheme)
    return [*first, *smoothing(scheme), *rounding(how, ignore=kept, config_groups=groups, kv_cache_scheme=cache)]


@singledispatch
def formats(scheme: Scheme, layers: list[str]) -> QuantizationScheme:
    """Number formats of the layers that `layers` names."""
    raise StageError(f"nothing quantizes as {type(scheme).__name__}; register a function with `formats.register`")


@formats.register
def _weights_only(scheme: WeightsOnly, layers: list[str]) -> QuantizationScheme:
    return QuantizationScheme(targets=layers, weights=_integers(scheme.num_bits, scheme, symmetric=scheme.symmetric))


@formats.register
def _w4afp8(scheme: W4AFP8, layers: list[str]) -> QuantizationScheme:
    activations = QuantizationArgs(num_bits=8, type="float", strategy="token", symmetric=True, dynamic=True)
    # Else it would give each weight a byte, which vLLM doesn't read.
    packed = {"format": "pack-quantized"}
    return QuantizationScheme(targets=layers, weights=_integers(4, scheme), input_activations=activations, **packed)


def _integers(num_bits: int, scheme: WeightsOnly | W4AFP8, symmetric: bool = True) -> QuantizationArgs:
    # Not llmcompressor's presets, which all have groups of 128.
    return QuantizationArgs(
        type="int",
        num_bits=num_bits,
        symmetric=symmetric,
        strategy="channel" if scheme.group_size is None else "group",
        group_size=scheme.group_size,
        observer=_OBSERVERS[scheme.observer],
    )


@formats.register
def _w8a8(scheme: W8A8, layers: list[str]) -> QuantizationScheme:
    return _preset("W8A8", scheme.observer, layers)


@formats.register
def _fp8(scheme: FP8, layers: list[str]) -> QuantizationScheme:
    made = _preset("FP8_DYNAMIC", scheme.observer, layers)
    if scheme.activations == "static":
        # Not the whole preset `FP8`, which has one scale for all of a layer's weights as well.
        made.input_activations = preset_name_to_scheme("FP8", layers).input_activations
    return made


@formats.register
def _fp8_block(scheme: FP8Block, layers: list[str]) -> QuantizationScheme:
    size, activations = scheme.block_size, {"strategy": "group", "symmetric": True, "dynamic": True}
    return QuantizationScheme(
        targets=layers,
        weights=QuantizationArgs(
            type="float",
            num_bits=8,
            symmetric=True,
            strategy="block",
            block_structure=[size, size],
            observer=_OBSERVERS[scheme.observer],
        ),
        input_activations=QuantizationArgs(type="float", num_bits=8, group_size=size, **activations),
    )


@formats.register
def _microscaled(scheme: Microscaled, layers: list[str]) -> QuantizationScheme:
    return _preset(type(scheme).__name__, scheme.observer, layers)


def _preset(name: str, observer: Observer, layers: list[str]) -> QuantizationScheme:
    """A scheme that llmcompressor has a name for."""
    made = preset_name_to_scheme(name, layers)
    made.weights.observer = _OBSERVERS[observer]
    return made


@singledispatch
def smoothing(scheme: Scheme) -> list[Modifier]:
    """What is done to the model before it is rounded."""
    return []


@smoothing.register
def _even_out(scheme: W8A8) -> list[Modifier]:
    strength = scheme.smoothing_strength
    return [] if strength is None else [SmoothQuantModifier(smoothing_strength=strength)]


@singledispatch
def rounding(how: Rounding, **what: Any) -> list[Modifier]:
    """The modifiers that round weights in this way."""
    raise StageError(f"nothing rounds by {type(how).__name__}; register a function with `rounding.register`")


@rounding.register
def _gptq(how: GPTQ, **what: Any) -> list[Modifier]:
    order = "static" if how.activation_order else None
    return [GPTQModifier(dampening_frac=how.dampening_frac, actorder=order, **what)]


@rounding.register
def _awq(how: AWQ, **what: Any) -> list[Modifier]:
    return [AWQModifier(n_grid=how.grid_points), QuantizationModifier(**what)]


@rounding.register
def _auto_round(how: AutoRound, **what: Any) -> list[Modifier]:
    return [ours("autoround").LearnedRounding(iters=how.iterations, **what)]


@rounding.register
def _round_to_nearest(how: RoundToNearest, **what: Any) -> list[Modifier]:
    return [QuantizationModifier(**what)]
