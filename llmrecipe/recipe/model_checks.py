"""Rules about what a model is made from."""

import math
from collections.abc import Sequence

from llmrecipe.recipe.kinds import Model, Scheme
from llmrecipe.recipe.model import Calibrated, Checkpoint, PretrainedModel, Quantized, Trained
from llmrecipe.recipe.networks.network import Network
from llmrecipe.recipe.proposals import largest_group
from llmrecipe.recipe.quantity import Epochs
from llmrecipe.recipe.recipe import Recipe
from llmrecipe.recipe.rules import Findings, Rules
from llmrecipe.recipe.scheme import W8A8, Override, RoundToNearest, WeightsOnly

rules = Rules()

_SHOWN = 8
"""Of kept steps, how many are named one by one."""


@rules.add("models", of=Recipe)
def _model_again(recipe: Recipe) -> Findings:
    for index, model in enumerate(recipe.models):
        first = recipe.models.index(model)
        if first < index:
            yield f"models[{index}]", f"{model.name} is models[{first}] again; keep one of them"


@rules.add("path", "hub", "package", "revision", of=PretrainedModel)
def _one_place(model: PretrainedModel) -> Findings:
    ways = 'path="models/…", hub="owner/name" with a revision, or package="name==version"'
    if model.path is model.hub is model.package is None:
        yield "path", f"is missing: say where the model is, by {ways}"
    elif model.hub is not None and (model.path is not None or model.package is not None):
        yield "hub", f"{model.hub!r} is given, and {'path' if model.path else 'package'} as well; keep one of them"
    if model.hub is not None and model.revision is None:
        yield (
            "revision",
            f"is missing, and what {model.hub!r} is can change; copy the hash of a commit from 'Files and versions', "
            "'History' on its page",
        )
    elif model.hub is None and model.revision is not None:
        yield "revision", f"{model.revision!r} is given without hub; leave it out"


@rules.add("tokenizer", of=Trained)
def _no_tokenizer(model: Trained) -> Findings:
    start = model.start
    if isinstance(start, Network) and model.tokenizer is None:
        yield (
            "tokenizer",
            f"is missing, and {type(start).__name__} is a network without weights, which brings none; use one that "
            f"suits the text, such as {'WordPiece' if start.reads_both_sides else 'ByteLevelBPE'}(vocab_size=32_000)",
        )


@rules.add("tokenizer", "vocabulary", "start.vocabulary", of=Trained)
def _other_tokenizer(model: Trained) -> Findings:
    start = model.start
    if not isinstance(start, Model):
        return
    is_other = model.tokenizer is not None and model.vocabulary != start.vocabulary
    if is_other and not model.resize_embeddings:
        yield (
            "tokenizer",
            f"{model.vocabulary.name} is not {start.vocabulary.name}, the tokenizer of {start.name}, whose "
            "weights know its tokens alone; leave it out, or give the others embeddings by resize_embeddings=True",
        )
    elif model.resize_embeddings and not is_other:
        yield (
            "resize_embeddings",
            f"True, and the tokenizer is that of {start.name}, which has its embeddings; leave it out",
        )


@rules.add("resize_embeddings", of=Trained)
def _nothing_to_resize(model: Trained) -> Findings:
    if model.resize_embeddings and isinstance(model.start, Network):
        yield "resize_embeddings", f"True, and {type(model.start).__name__} has no embeddings yet; leave it out"


@rules.add("start", of=Trained)
def _start(model: Trained) -> Findings:
    if isinstance(model.start, Model) and model.start.is_rounded:
        yield (
            "start",
            f"{model.start.name} is {type(model.start).__name__}: its weights are rounded, and can't be trained; start "
            f"from {unrounded(model.start).name}, and quantize what comes of it",
        )


@rules.add("step", "model.name", "model.training", "model.objective", of=Checkpoint)
def _not_kept(checkpoint: Checkpoint) -> Findings:
    model, step = checkpoint.model, checkpoint.step
    training, every = model.training, model.training.keep_every
    if every is None:
        reason = f"{step}, and {model.name} keeps no checkpoints; give its training keep_every=Steps({step})"
        yield "step", reason
    elif every.count < 1:
        return
    elif isinstance(training.duration, Epochs):
        if not training.is_kept(step):
            yield "step", f"{step} is not kept: training.keep_every = {every} keeps its multiples"
    else:
        kept = range(every.count, training.num_steps(model.objective.sequence_length) + 1, every.count)
        if kept and step not in kept:
            shown = f"{kept[0]}, {kept[1]}, … {kept[-1]}" if len(kept) > _SHOWN else ", ".join(map(str, kept))
            yield "step", f"{step} is not kept; training.keep_every = {every} of {model.name} keeps {shown}"


@rules.add("model", of=Quantized)
def _quantized_twice(model: Quantized) -> Findings:
    if model.model.is_rounded:
        yield (
            "model",
            f"{model.model.name} is {type(model.model).__name__}, and a model is quantized once; quantize "
            f"{unrounded(model.model).name}",
        )


def unrounded(model: Model) -> Model:
    """The nearest ancestor whose weights aren't rounded."""
    return unrounded(model.parents[0]) if model.is_rounded else model


@rules.add("network", "scheme", "overrides", of=Quantized)
def _scheme(model: Quantized) -> Findings:
    yield from scheme_findings(model.scheme, model.overrides, model.network)


def scheme_findings(scheme: Scheme, overrides: Sequence[Override], network: Network) -> Findings:
    """What a quantization to `scheme`, and `overrides` of it, can't do with a network; paths begin with those."""
    left = dict(network.quantized_layers)
    for index, override in enumerate(overrides):
        place = f"overrides[{index}]"
        matched = {name: width for name, width in left.items() if override.matches(name)}
        left = {name: width for name, width in left.items() if name not in matched}
        if not matched:
            yield f"{place}.layers", _unmatched(override, overrides[:index], network)
        elif override.scheme is not None:
            yield from _fit(f"{place}.scheme", override.scheme, network, set(matched.values()))
            yield from _goes_along(f"{place}.scheme", override.scheme, scheme)
    if overrides and not left:
        yield "overrides", f"leave no layer to {type(scheme).__name__}, the scheme of the rest; override fewer"
    yield from _fit("scheme", scheme, network, set(left.values()) if overrides else None)


def _unmatched(override: Override, earlier: Sequence[Override], network: Network) -> str:
    for index, other in enumerate(earlier):
        if any(other.matches(name) and override.matches(name) for name in network.quantized_layers):
            return f"{override.layers!r} is left no layer by overrides[{index}], which comes first; put it before"
    if not network.quantized_layers:
        return (
            f"{override.layers!r} is given, and {type(network).__name__} names no layers; define its quantized_layers"
        )
    ends = dict.fromkeys(name.rpartition(".")[2] for name in network.quantized_layers)
    return (
        f"{override.layers!r} matches no layer that is quantized; the first is {next(iter(network.quantized_layers))}, "
        f"and names end in {', '.join(ends)}"
    )


def _goes_along(path: str, scheme: Scheme, rest: Scheme) -> Findings:
    name, nearest = type(scheme).__name__, RoundToNearest()
    if isinstance(scheme, W8A8):
        yield path, "W8A8 evens out the activations of all layers; make it the scheme, and override those it isn't for"
        return
    own, others = (getattr(each, "rounding", nearest) for each in (scheme, rest))
    if own == others:
        return
    if not hasattr(scheme, "rounding"):
        mend = f"give the scheme rounding=scheme.{nearest!r}"
    elif not hasattr(rest, "rounding"):
        mend = f"give it rounding=scheme.{nearest!r}"
    else:
        mend = "give both the same rounding"
    yield path, f"{name} is rounded by {own}, and the rest by {others}; {mend}"


def _fit(path: str, scheme: Scheme, network: Network, widths: set[int] | None) -> Findings:
    """Why layers of these widths, or all, can't be quantized to `scheme`."""
    name = type(scheme).__name__
    unfit = next((why for kind, why in network.unfit_schemes.items() if isinstance(scheme, kind)), None)
    if unfit:
        yield path, f"{name} {unfit}"
    elif isinstance(scheme, WeightsOnly) and scheme.group_size is not None:
        size = scheme.group_size
        columns = {text: width for text, width in network.quantized_widths.items() if widths is None or width in widths}
        undivided = [text for text, width in columns.items() if width % size]
        if undivided:
            fitting = largest_group(size, math.gcd(*columns.values()))
            yield (
                f"{path}.group_size",
                f"{name}'s group of {size} does not divide {' and '.join(undivided)}; use {fitting}",
            )


@rules.add("text", "model", of=Quantized)
def calibration(model: Calibrated) -> Findings:
    """What is wrong with the text that calibrates."""
    if model.reads_text and model.text is None and model.model.training_text is None:
        yield (
            "text",
            f"is missing: {type(model).__name__} is calibrated on text, and {model.model.name} was not trained here; "
            "give it, text=Corpus(…)",
        )
