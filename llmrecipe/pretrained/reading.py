"""What a model is, from its files: its network, what it predicts, and what is wrong with it."""

from collections.abc import Iterator
from pathlib import Path

import attrs

from llmrecipe.pretrained import folder, gguf
from llmrecipe.pretrained.comparison import Comparison, compare
from llmrecipe.pretrained.contents import Contents
from llmrecipe.pretrained.network import network_of
from llmrecipe.pretrained.place import source_of
from llmrecipe.pretrained.tokens import TOKENIZER
from llmrecipe.recipe import names
from llmrecipe.recipe.evolve import evolve
from llmrecipe.recipe.kinds import Objective
from llmrecipe.recipe.model import PretrainedModel
from llmrecipe.recipe.networks.config import Config
from llmrecipe.recipe.networks.network import Network
from llmrecipe.recipe.objective import CausalLM, MaskedLM

_LONGEST = 1024
"""Tokens of the sequences that a model is measured on, unless its recipe says otherwise."""

_SHORTEST = 2

Faults = Iterator[tuple[str, str]]
"""Fields of the model, each with what is wrong."""


@attrs.frozen
class Reading:
    """What the files of a model say."""

    contents: Contents
    """The files."""

    network: Network | None
    """Its shape; None if that can't be read."""

    objective: Objective | None
    """What it predicts, as given or by its network; None if that can't be read."""

    rows: int
    """Rows of its token embedding."""

    missing_head: bool
    """Whether the weights lack the output head."""

    notes: tuple[str, ...]
    """What a reader of its numbers should know: what is dropped when it is taken over, or drawn."""

    faults: tuple[tuple[str, str], ...]
    """What is wrong: fields of the model, each with the reason."""


def read(model: PretrainedModel, place: Path, *, is_whole: bool = True) -> Reading:
    """What the files of a model say of it.

    Args:
        model: the model.
        place: where `locate` or `download` found it.
        is_whole: whether all of its files are there; else weights and tokenizer may be missing.
    """
    is_gguf = place.is_file()
    contents = gguf.contents_of(place) if is_gguf else folder.contents_of(place, is_whole=is_whole)
    config = Config(contents.config)
    file = place.name if is_gguf else folder.CONFIG
    network, of_config = network_of(config, file) if contents.config else (None, [])
    rows, compared = _weights(contents, config, network, place, file)
    of_files = [*contents.faults, *of_config, *compared.faults]
    if is_whole or contents.tokenizer is not None:
        of_files += _of_tokenizer(contents, network, rows, place)
    objective = model.given_objective or _objective(network)
    field, source = source_of(model)
    faults = [
        *((field, f"{source}: {fault}") for fault in of_files),
        *_of_quantization(model, config, is_gguf),
        *_of_network(model, network),
        *_of_head(model, config, network, compared),
        *_of_objective(model, network),
    ]
    if network is not None and model.given_network is not None:
        network = model.given_network
    notes = tuple(_notes(model, contents, compared, is_gguf))
    return Reading(contents, network, objective, rows, compared.lacks_head, notes, tuple(faults))


def _weights(
    contents: Contents, config: Config, network: Network | None, place: Path, file: str
) -> tuple[int, Comparison]:
    """Rows of the embedding, and what the weights are for the network."""
    is_gguf = place.is_file()
    if network is None:
        return 0, Comparison()
    rows = config.integer("vocab_size")
    # However many layers a damaged file asks for, more than it has weights are too many.
    network = evolve(network, num_layers=min(network.num_layers, len(contents.tensors) + 1))
    expected = network.weights(rows)
    if not contents.tensors:
        has_head = network.architectures.get(config.architecture, True) or not expected.head
        return rows, Comparison(lacks_head=not has_head)
    embedding = next(
        (tensor for name, tensor in contents.tensors.items() if expected.own_name(name) == expected.embedding), None
    )
    found = embedding.shape[0] if embedding is not None and embedding.shape else rows
    compared = compare(
        contents.tensors,
        network.weights(found),
        place.parent if is_gguf else place,
        family=f"{type(network).__name__} of this {file}",
        is_quantized=config.quantization is not None,
        is_expanded=config.quantization is not None or is_gguf,
    )
    if found != rows:
        fault = f"its embedding has {found:,} rows, and {file} says vocab_size = {rows:,}"
        compared = attrs.evolve(compared, faults=(fault, *compared.faults))
    return found, compared


def _of_tokenizer(contents: Contents, network: Network | None, rows: int, place: Path) -> Iterator[str]:
    tokens = contents.tokenizer
    if tokens is None:
        is_absent = any(TOKENIZER in fault for fault in contents.faults)
        if place.is_dir() and not (place / TOKENIZER).is_file() and not is_absent:
            load = f"AutoTokenizer.from_pretrained('{place}').save_pretrained('{place}')"
            yield f'{TOKENIZER} is missing; make it: python -c "from transformers import AutoTokenizer; {load}"'
        return
    if network is not None and tokens.count > rows:
        yield (
            f"its tokenizer doesn't fit: it has {tokens.count:,} tokens, and the embedding {rows:,} rows, so the last "
            "ones have none; use the tokenizer that the model was trained with"
        )
    is_encoder = network is not None and network.reads_both_sides
    if not tokens.has_end_of_text and not (is_encoder and tokens.has_separator):
        yield (
            "its tokenizer names no token that ends a text and that it has; name one in tokenizer_config.json, as in "
            '"eos_token": "</s>"'
        )


def _of_quantization(model: PretrainedModel, config: Config, is_gguf: bool) -> Faults:
    quantization = config.quantization
    if quantization is None:
        if model.dequantize and (config.architecture or is_gguf):
            why = "a GGUF file is always expanded" if is_gguf else "its weights are not quantized"
            yield "dequantize", f"True, and {why}; leave it out"
        return
    method = quantization.get("quant_method", "compressed-tensors")
    if method != "compressed-tensors":
        yield (
            "dequantize" if model.dequantize else source_of(model)[0],
            f"its weights are quantized as {method!r} (quantization_config), which can't be expanded here; use the "
            "model that it was made from",
        )
    elif not model.dequantize:
        yield (
            "dequantize",
            "False, and its weights are quantized as compressed-tensors (quantization_config); dequantize=True expands "
            "them, or use the model that it was made from",
        )


def _of_network(model: PretrainedModel, network: Network | None) -> Faults:
    given = model.given_network
    if given is None or network is None:
        return
    # What a vocabulary is padded to while it is trained is no matter of the files.
    padding = given.make_vocab_size_divisible_by
    found = names.differences(given, evolve(network, make_vocab_size_divisible_by=padding))
    if found:
        yield "network", f"is not what config.json says: {'; '.join(found)}; leave it out"


def _of_head(model: PretrainedModel, config: Config, network: Network | None, compared: Comparison) -> Faults:
    if network is None:
        return
    named = config.architecture or type(network).__name__
    if compared.lacks_head and not model.new_head:
        yield "new_head", f"False, and {named} has no {_head(network)} there; new_head=True draws one"
    elif model.new_head and not compared.lacks_head:
        yield "new_head", f"True, and {named} has its {_head(network)}; leave it out"


def _head(network: Network) -> str:
    return "masked-token head" if network.reads_both_sides else "output head"


def _objective(network: Network | None) -> Objective | None:
    """What a network predicts that nothing else is said of."""
    if network is None or network.max_position_embeddings < _SHORTEST:
        return None
    cls = MaskedLM if network.reads_both_sides else CausalLM
    return cls(sequence_length=min(network.max_position_embeddings, _LONGEST))


def _of_objective(model: PretrainedModel, network: Network | None) -> Faults:
    given = model.given_objective
    if given is None or network is None:
        return
    if given.is_masked != network.reads_both_sides:
        predicts = "masked tokens" if given.is_masked else "the next token"
        reads = "those after it as well" if network.reads_both_sides else "only those before it"
        fitting = "MaskedLM" if network.reads_both_sides else "CausalLM"
        name = type(network).__name__
        yield (
            "objective",
            f"{type(given).__name__} predicts {predicts}, and a token of {name} reads {reads}; use {fitting}, or leave "
            "it out",
        )
    longest = network.max_position_embeddings
    if given.sequence_length > longest:
        yield (
            "objective.sequence_length",
            f"{given.sequence_length} is more than its max_position_embeddings = {longest}; use at most {longest}",
        )


def _notes(model: PretrainedModel, contents: Contents, compared: Comparison, is_gguf: bool) -> Iterator[str]:
    if is_gguf or model.dequantize:
        narrow = sorted({tensor.dtype for tensor in contents.tensors.values()} - {"F32"})
        if narrow:
            yield f"its weights were expanded from {', '.join(narrow)}"
    for what in compared.dropped:
        yield f"{what} was left out: nothing here reads it"
    if compared.lacks_head:
        yield f"as published it had no output head for text: one was drawn, with the seed {model.seed}"
