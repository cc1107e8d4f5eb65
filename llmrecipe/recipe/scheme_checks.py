"""Rules about what a model is quantized to."""

import math
from collections.abc import Sequence
from typing import Literal, Protocol

from llmrecipe.recipe import layer_names
from llmrecipe.recipe.floats import NVFP4, NVFP4A16, FP8Block, Microscaled
from llmrecipe.recipe.integers import W4AFP8, W8A8, WeightsOnly
from llmrecipe.recipe.kinds import Rounding, Scheme
from llmrecipe.recipe.model import Quantized
from llmrecipe.recipe.networks.network import Network
from llmrecipe.recipe.proposals import largest_group
from llmrecipe.recipe.rounding import AWQ, GPTQ, AutoRound, RoundToNearest
from llmrecipe.recipe.rules import Findings, Rules
from llmrecipe.recipe.scheme import Override

rules = Rules()

_JOINED = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
"""Layers that inference engines join, of whose weights llmcompressor makes the factor of `NVFP4` one."""


class _Asked(Protocol):
    """What the model of a recipe and the section of its stage have both."""

    @property
    def scheme(self) -> Scheme | None: ...
    @property
    def overrides(self) -> tuple[Override, ...]: ...
    @property
    def kv_cache(self) -> Literal["float8"] | None: ...
    @property
    def rotate(self) -> bool: ...


@rules.add("network", "scheme", "overrides", "kv_cache", "rotate", of=Quantized)
def _scheme(model: Quantized) -> Findings:
    yield from scheme_findings(model, model.network)


@rules.add("model", "rotate", of=Quantized)
def _zeros(model: Quantized) -> Findings:
    if model.rotate and model.model.is_sparse:
        yield "rotate", f"True, and {model.model.name} has zeros, which rotations mix with the rest; leave it out"


@rules.add("scheme", "overrides", "kv_cache", "rotate", "propagate_error", of=Quantized)
def _hessians(model: Quantized) -> Findings:
    """What a text is for besides the Hessians that are gathered of a model as it is."""
    schemes = [each for each in (model.scheme, *(other.scheme for other in model.overrides)) if each is not None]
    if model.propagate_error or not schemes:
        return
    changing = [
        *(["rotate"] if model.rotate else []),
        *(["kv_cache"] if model.kv_cache else []),
        *(type(each).__name__ for each in schemes if each.moves_difficulty or each.scales_activations),
        *(type(rounding_of(each)).__name__ for each in schemes if rounding_of(each).learns),
    ]
    if changing:
        more, verb = " and ".join(dict.fromkeys(changing)), "need" if len(set(changing)) > 1 else "needs"
        yield "propagate_error", f"False, and {more} {verb} more of the text than its Hessians; leave it out"
    elif not any(_reads_hessians(each) for each in schemes):
        yield (
            "propagate_error",
            "False, and weights are rounded without a text, so no error is propagated; leave it out",
        )


@rules.add("model", "scheme", "kv_cache", of=Quantized)
def _learned(model: Quantized) -> Findings:
    """What AutoRound learns to round changes what else there is."""
    if model.scheme is None or not rounding_of(model.scheme).learns:
        return
    if model.kv_cache:
        yield "kv_cache", f"{model.kv_cache!r} is given, which AutoRound doesn't calibrate; use GPTQ(), or leave it out"
    if model.model.is_sparse:
        yield "scheme.rounding", f"AutoRound may round a zero up, and {model.model.name} is sparse; use GPTQ()"


def _reads_hessians(scheme: Scheme) -> bool:
    return isinstance(rounding_of(scheme), GPTQ) or getattr(scheme, "observer", None) == "imatrix_mse"


def scheme_findings(asked: _Asked, network: Network) -> Findings:
    """What a quantization can't do with a network; paths begin with its fields."""
    scheme, overrides, kv_cache = asked.scheme, asked.overrides, asked.kv_cache
    if kv_cache is not None and network.reads_both_sides:
        yield (
            "kv_cache",
            f"{kv_cache!r} is given, and {type(network).__name__} keeps no keys and values, for it reads all tokens "
            "at once; leave it out",
        )
    if asked.rotate and network.reads_both_sides:
        yield (
            "rotate",
            f"True, and the norms of {type(network).__name__} subtract a mean, which isn't the same once channels are "
            "rotated; leave it out",
        )
    if scheme is None:
        if kv_cache is None:
            yield "scheme", "None, and kv_cache as well, so nothing is quantized; use one, such as W4A16()"
        if overrides:
            yield "overrides", "are given, and scheme = None rounds no layer; give it one, such as W4A16()"
        return
    left = dict(network.quantized_layers)
    schemes: dict[str, Scheme | None] = dict.fromkeys(left, scheme)
    for index, override in enumerate(overrides):
        place = f"overrides[{index}]"
        matched = {name: width for name, width in left.items() if override.matches(name)}
        left = {name: width for name, width in left.items() if name not in matched}
        schemes |= dict.fromkeys(matched, override.scheme)
        if not matched:
            yield f"{place}.layers", _unmatched(override, overrides[:index], network)
        elif override.scheme is not None:
            yield from _fit(f"{place}.scheme", override.scheme, network, set(matched.values()))
            yield from _goes_along(f"{place}.scheme", override.scheme, scheme)
    if overrides and not left:
        yield "overrides", f"leave no layer to {type(scheme).__name__}, the scheme of the rest; override fewer"
    yield from _fit("scheme", scheme, network, set(left.values()) if overrides else None)
    yield from _joined(schemes)


def _unmatched(override: Override, earlier: Sequence[Override], network: Network) -> str:
    for index, other in enumerate(earlier):
        if any(other.matches(name) and override.matches(name) for name in network.quantized_layers):
            return f"{override.layers!r} is left no layer by overrides[{index}], which comes first; put it before"
    if not network.quantized_layers:
        return (
            f"{override.layers!r} is given, and {type(network).__name__} names no layers; define its quantized_layers"
        )
    return f"{override.layers!r} matches no layer that is quantized; {layer_names.known(network.quantized_layers)}"


def _goes_along(path: str, scheme: Scheme, rest: Scheme) -> Findings:
    name, nearest = type(scheme).__name__, RoundToNearest()
    if isinstance(scheme, W8A8) and scheme.smoothing_strength is not None:
        yield (
            path,
            "W8A8 evens out the activations of all layers; make it the scheme, and override those it isn't for, or "
            "give it smoothing_strength=None",
        )
        return
    own, others = rounding_of(scheme), rounding_of(rest)
    if own == others:
        return
    if not hasattr(scheme, "rounding"):
        mend = f"give the scheme rounding=scheme.{nearest!r}"
    elif not hasattr(rest, "rounding"):
        mend = f"give it rounding=scheme.{nearest!r}"
    else:
        mend = "give both the same rounding"
    yield path, f"{name} is rounded by {own}, and the rest by {others}; {mend}"


def rounding_of(scheme: Scheme) -> Rounding:
    """How its weights are rounded; to nearest if it doesn't say."""
    how: Rounding = getattr(scheme, "rounding", RoundToNearest())
    return how


def _fit(path: str, scheme: Scheme, network: Network, widths: set[int] | None) -> Findings:
    """Why layers of these widths, or all, can't be quantized to `scheme`."""
    name = type(scheme).__name__
    unfit = next((why for kind, why in network.unfit_schemes.items() if isinstance(scheme, kind)), None)
    if unfit:
        yield path, f"{name} {unfit}"
        return
    if isinstance(scheme, FP8Block) and scheme.observer == "imatrix_mse":
        yield f"{path}.observer", "'imatrix_mse' weighs rows, and FP8Block's scales are of blocks of them; use 'mse'"
    yield from _smoothing(path, scheme, network)
    yield from _learning(path, scheme, network)
    found = _group(scheme)
    if found is None:
        return
    field, size = found
    columns = {text: width for text, width in network.quantized_widths.items() if widths is None or width in widths}
    undivided = [text for text, width in columns.items() if width % size]
    if undivided:
        fitting = largest_group(size, math.gcd(*columns.values()))
        use = str(fitting) if field else f"a scheme whose groups can be smaller, such as W4A16(group_size={fitting})"
        yield f"{path}{field}", f"{name}'s group of {size} does not divide {' and '.join(undivided)}; use {use}"


def _smoothing(path: str, scheme: Scheme, network: Network) -> Findings:
    name, is_smoothed = type(scheme).__name__, isinstance(scheme, W8A8) and scheme.smoothing_strength is not None
    is_awq = isinstance(rounding_of(scheme), AWQ)
    if is_smoothed and network.unfit_for_smoothing:
        yield (
            f"{path}.smoothing_strength",
            f"{name} evens out activations in the norm before a layer, and {network.unfit_for_smoothing}; use None",
        )
    elif is_smoothed and is_awq:
        yield f"{path}.smoothing_strength", "moves what AWQ moves, each undoing the other; use None, or GPTQ()"
    if is_awq and network.unfit_for_smoothing:
        yield (
            f"{path}.rounding",
            f"AWQ makes the outputs of the norm before a layer smaller, and {network.unfit_for_smoothing}; use GPTQ()",
        )


def _learning(path: str, scheme: Scheme, network: Network) -> Findings:
    if not isinstance(rounding_of(scheme), AutoRound):
        return
    if network.reads_both_sides:
        yield f"{path}.rounding", f"AutoRound is for decoders, and {type(network).__name__} is none; use GPTQ()"
    elif not isinstance(scheme, WeightsOnly | W4AFP8):
        name = type(scheme).__name__
        yield (
            f"{path}.rounding",
            f"AutoRound is for integer weights beside activations that stay, or W4AFP8, and not for {name}; use GPTQ()",
        )
    elif isinstance(scheme, WeightsOnly) and not scheme.symmetric:
        yield (
            f"{path}.symmetric",
            "False, and llmcompressor loses the zero points that AutoRound finds; use True, or rounding=GPTQ()",
        )


def _group(scheme: Scheme) -> tuple[str, int] | None:
    """How many columns share a scale, after the field that says so; None if all of a row do."""
    if isinstance(scheme, Microscaled):
        return "", scheme.group_size
    if isinstance(scheme, FP8Block):
        return ".block_size", scheme.block_size
    if isinstance(scheme, WeightsOnly | W4AFP8) and scheme.group_size is not None:
        return ".group_size", scheme.group_size
    return None


def _joined(schemes: dict[str, Scheme | None]) -> Findings:
    """Layers that share a factor in NVFP4, of which some are in another format; the first ones say it for all."""
    for names in _JOINED:
        for parent in dict.fromkeys(name.rpartition(".")[0] for name in schemes):
            layers = [f"{parent}.{name}" for name in names]
            if any(layer not in schemes for layer in layers):
                continue
            others = [layer for layer in layers if not isinstance(schemes[layer], NVFP4 | NVFP4A16)]
            if 0 < len(others) < len(layers):
                yield (
                    "overrides",
                    f"leave {' and '.join(others)} without NVFP4, in which {', '.join(names)} share one factor, as "
                    "vLLM joins them; override all of them or none",
                )
                break
