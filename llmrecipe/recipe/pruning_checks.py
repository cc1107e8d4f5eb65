"""Rules about what is left out of a model."""

import math

from llmrecipe.recipe.kinds import Model, Pruning
from llmrecipe.recipe.model import Trained
from llmrecipe.recipe.model_checks import calibration, unrounded
from llmrecipe.recipe.networks.decoder import Decoder
from llmrecipe.recipe.networks.llama import Llama
from llmrecipe.recipe.networks.network import Network
from llmrecipe.recipe.proposals import choice, divisors, multiples_near
from llmrecipe.recipe.prune import Layers, Measured, Pattern, PerLayer, Sparse, Width, reach
from llmrecipe.recipe.pruned import Pruned
from llmrecipe.recipe.rules import Findings, Rules

rules = Rules()

_USUAL = 8
"""The largest group that is usual."""


@rules.add("keep", "of", of=Pattern)
def _pattern(pattern: Pattern) -> Findings:
    if pattern.keep >= pattern.of:
        yield "keep", f"{pattern.keep} of {pattern.of} are all there are, so nothing is pruned; keep fewer"


@rules.add("model", of=Pruned)
def _quantized_before(pruned: Pruned) -> Findings:
    model = pruned.model
    if model.is_rounded:
        yield (
            "model",
            f"{model.name} is {type(model).__name__}: pruning would undo its rounding; prune "
            f"{unrounded(model).name}, and quantize what comes of it, which keeps the zeros",
        )


@rules.add("method", "model.network", of=Pruned)
def _fit(pruned: Pruned) -> Findings:
    yield from pruning_findings(pruned.method, pruned.model.network)


def pruning_findings(method: Pruning, network: Network) -> Findings:
    """What can't be left out of a network; paths begin with `method`."""
    if isinstance(method, Sparse):
        yield from _zeros(method, network)
    elif isinstance(method, Layers | Width):
        yield from _sizes(method, network)


def _zeros(method: Sparse, network: Network) -> Findings:
    sparsity, columns = method.sparsity, network.quantized_widths
    if isinstance(sparsity, Pattern):
        undivided = [text for text, width in columns.items() if width % sparsity.of]
        if undivided:
            fitting = divisors(math.gcd(*columns.values()), up_to=max(sparsity.of, _USUAL))[1:]
            mend = f"use {choice(fitting)}" if fitting else f"use a share, sparsity={sparsity.share:g}"
            yield "method.sparsity.of", f"{sparsity.of} does not divide {' and '.join(undivided)}; {mend}"
        return
    shares = {"method.sparsity" if isinstance(sparsity, float) else "method.sparsity.share": method.share}
    if isinstance(sparsity, PerLayer):
        # Of a layer that is left as it is, none are asked for.
        shares = {f"method.sparsity.shares[{layer}]": share for layer, share in enumerate(sparsity.shares) if share}
        if len(sparsity.shares) != network.num_layers:
            yield (
                "method.sparsity.shares",
                f"has {len(sparsity.shares)}, and the model has {network.num_layers} layers; give one for each, 0 for "
                "those that stay as they are",
            )
    text, width = min(columns.items(), key=lambda each: each[1])
    for path, share in shares.items():
        if share * width < 1:
            enough = math.ceil(1000 / width) / 1000
            yield path, f"{share:g} is less than one weight of a row of {text}; use at least {enough:g}"


def _sizes(method: Layers | Width, network: Network) -> Findings:
    name = type(method).__name__
    if not isinstance(network, Decoder):
        yield (
            "method",
            f"{name} is for decoders, and {type(network).__name__} is an encoder, of which it isn't known what can be "
            "left out; make it sparse, by prune.SparseGPT(sparsity=0.5)",
        )
        return
    sizes = (
        {"num_layers": network.num_layers}
        if isinstance(method, Layers)
        else {
            "hidden_size": network.hidden_size,
            "intermediate_size": network.feed_forward_size,
            "num_key_value_heads": network.num_key_value_heads,
        }
    )
    asked = {field: size for field in sizes if (size := getattr(method, field)) is not None}
    if not asked:
        yield "method", f"{name} leaves everything; give it {choice([*sizes])}, fewer than the model has"
    whole = {field: size for field, size in asked.items() if size >= sizes[field]}
    for field, size in whole.items():
        yield (
            f"method.{field}",
            f"{size} is not less than the model's {field} = {sizes[field]}{_fewer(field, sizes[field])}",
        )
    if isinstance(method, Width) and isinstance(network, Llama) and not whole:
        yield from _heads(method, network)


def _fewer(field: str, size: int) -> str:
    fewest = 2 if field == "hidden_size" else 1
    return f"; use at most {size - 1}" if size > fewest else ", of which none can be left out"


def _heads(method: Width, before: Llama) -> Findings:
    """What isn't possible because transformers' Llama, whatever its head_dim, divides its width by its heads."""
    groups = method.num_key_value_heads or before.num_key_value_heads
    of_group = before.num_attention_heads // before.num_key_value_heads
    heads, width = groups * of_group, method.hidden_size or before.hidden_size
    # A network with more heads of keys than of queries is refused as such.
    if heads == 0 or width % heads == 0:
        return
    if method.hidden_size is not None:
        fitting = multiples_near(width, heads, up_to=before.hidden_size - 1)
        mend = f"use {choice(fitting)}" if fitting[0] < before.hidden_size else "leave it out"
        yield (
            "method.hidden_size",
            f"{width} is not a multiple of the {heads} query heads that are left, as transformers' Llama needs; {mend}",
        )
    elif method.num_key_value_heads is not None:
        fitting = [each for each in range(1, before.num_key_value_heads) if width % (of_group * each) == 0]
        mend = f"use {choice(fitting)}" if fitting else "leave it out"
        yield (
            "method.num_key_value_heads",
            f"{groups} leave {heads} query heads, which don't divide hidden_size = {width}, as transformers' Llama "
            f"needs; {mend}",
        )


@rules.add("method", "model", of=Pruned)
def _sparser_before(pruned: Pruned) -> Findings:
    before, method = _pruned_before(pruned.model), pruned.method
    if before is None or not isinstance(method, Sparse) or not isinstance(before.method, Sparse):
        return
    if _has_already(before.method, method):
        yield (
            "method.sparsity",
            f"{method.share:g} of the weights are zero in {before.name} already, or more, and zeros count; use more "
            f"than {_zeros_before(before.method, method):g}, or prune {before.model.name}",
        )
    elif isinstance(method.sparsity, PerLayer):
        yield from _sparser_layers(before, before.method, method.sparsity.shares)


def _sparser_layers(before: Pruned, method: Sparse, shares: tuple[float, ...]) -> Findings:
    """Layers of which as many weights are zero as are asked for, where that is known."""
    had = method.sparsity
    zeros = had.shares if isinstance(had, PerLayer) else (method.share,) * len(shares)
    if isinstance(had, Measured) or len(zeros) != len(shares):
        return
    for layer, (share, zero) in enumerate(zip(shares, zeros, strict=True)):
        if 0 < share <= zero:
            yield (
                f"method.sparsity.shares[{layer}]",
                f"{share:g} is not more than the {zero:g} of this layer's weights that are zero in {before.name} "
                "already, and zeros count; use more, or 0 to leave it as it is",
            )


def _has_already(before: Sparse, method: Sparse) -> bool:
    """Whether what is asked for needs no zeros but those that there are."""
    had, asked = before.sparsity, method.sparsity
    if isinstance(asked, PerLayer):
        # Compared layer by layer.
        return False
    if not isinstance(asked, Pattern):
        return method.share <= _zeros_before(before, method)
    # Groups that consist of whole groups of the other.
    return (
        isinstance(had, Pattern)
        and asked.of % had.of == 0
        and asked.of // had.of * (had.of - had.keep) >= asked.of - asked.keep
    )


def _zeros_before(before: Sparse, method: Sparse) -> float:
    """What a share that is asked for has to exceed: a measured one the mean of all layers, another one that of the
    layer with the fewest zeros, as far as it is known."""
    match before.sparsity:
        case PerLayer(shares=shares) if not isinstance(method.sparsity, Measured):
            return min(shares)
        case Measured(share=share) if not isinstance(method.sparsity, Measured):
            return share - reach(share)
    return before.share


def _pruned_before(model: Model) -> Pruned | None:
    """The nearest model that was made sparse, of those that this one is made from and whose zeros it has."""
    if not model.is_sparse:
        return None
    if isinstance(model, Pruned) and model.method.is_sparse:
        return model
    return next((found for parent in model.parents if (found := _pruned_before(parent))), None)


@rules.add("start", of=Trained)
def _trained_zeros(model: Trained) -> Findings:
    if isinstance(model.start, Model) and model.start.is_sparse and not model.start.is_rounded:
        dense = _pruned_before(model.start)
        whole = f"start from {dense.model.name}, and prune what comes of it" if dense else "prune what comes of it"
        yield (
            "start",
            f"{model.start.name} is sparse, and training moves zeros as it does all weights, so what was pruned "
            f"would be undone; {whole}",
        )


@rules.add("text", "model", "method", of=Pruned)
def _text(pruned: Pruned) -> Findings:
    yield from calibration(pruned)
    if pruned.text is not None and not pruned.reads_text:
        yield "text", f"{pruned.text.name} is given, and {type(pruned.method).__name__} reads none; leave it out"
