"""Rules about what a model is made from."""

import math

from llmrecipe.recipe.kinds import Model, Scheme
from llmrecipe.recipe.model import Quantized, Trained
from llmrecipe.recipe.network import Network
from llmrecipe.recipe.proposals import largest_group
from llmrecipe.recipe.recipe import Recipe
from llmrecipe.recipe.rules import Findings, Rules
from llmrecipe.recipe.scheme import W4A16

rules = Rules()


@rules.add("models", of=Recipe)
def _model_again(recipe: Recipe) -> Findings:
    for index, model in enumerate(recipe.models):
        first = recipe.models.index(model)
        if first < index:
            yield f"models[{index}]", f"{model.name} is models[{first}] again; keep one of them"


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
    if isinstance(start, Model) and model.tokenizer is not None and model.vocabulary != start.vocabulary:
        yield (
            "tokenizer",
            f"{model.vocabulary.name} is not {start.vocabulary.name}, the tokenizer of {start.name}, whose "
            "weights know its tokens alone; leave it out",
        )


@rules.add("start", of=Trained)
def _start(model: Trained) -> Findings:
    if isinstance(model.start, Model) and model.start.is_rounded:
        yield (
            "start",
            f"{model.start.name} is {type(model.start).__name__}: its weights are rounded, and can't be trained; start "
            f"from {_unrounded(model.start).name}, and quantize what comes of it",
        )


@rules.add("model", of=Quantized)
def _quantized_twice(model: Quantized) -> Findings:
    if model.model.is_rounded:
        yield (
            "model",
            f"{model.model.name} is {type(model.model).__name__}, and a model is quantized once; quantize "
            f"{_unrounded(model.model).name}",
        )


def _unrounded(model: Model) -> Model:
    """The nearest ancestor whose weights aren't rounded."""
    return _unrounded(model.parents[0]) if model.is_rounded else model


@rules.add("network", "scheme", of=Quantized)
def _scheme(model: Quantized) -> Findings:
    yield from scheme_findings(model.scheme, model.network)


def scheme_findings(scheme: Scheme, network: Network) -> Findings:
    """What a quantization `scheme` can't do with a network; paths begin with it."""
    unfit = network.unfit_schemes.get(type(scheme))
    if unfit:
        yield "scheme", unfit
    elif isinstance(scheme, W4A16):
        yield from _group_findings(scheme.group_size, network)


def _group_findings(size: int, network: Network) -> Findings:
    of_hidden_size, of_intermediate_size = network.linear_layers
    layers_of_width = {
        f"hidden_size = {network.hidden_size} ({of_hidden_size})": network.hidden_size,
        f"intermediate_size = {network.feed_forward_size} ({of_intermediate_size})": network.feed_forward_size,
    }
    common = math.gcd(*layers_of_width.values())
    if common % size:
        undivided = [text for text, width in layers_of_width.items() if width % size]
        yield (
            "scheme.group_size",
            f"W4A16's group of {size} does not divide {' and '.join(undivided)}; use {largest_group(size, common)}",
        )


@rules.add("text", "model", of=Quantized)
def _calibration(model: Quantized) -> Findings:
    if model.text is None and model.model.training_text is None:
        yield (
            "text",
            f"is missing: the scheme is calibrated on text, and {model.model.name} was not trained here; give it, "
            "text=Corpus(…)",
        )
