"""Somebody's model to an artifact that stages can read: verified, described, and with its weights where they lie."""

import shutil
from pathlib import Path
from typing import Any

import attrs
import torch
from safetensors.torch import save_file
from transformers import AutoConfig, PretrainedConfig

from llmrecipe.engines.models import expanding, folders
from llmrecipe.engines.models.architecture import Architecture, architecture_of
from llmrecipe.engines.models.published import PublishedWeights
from llmrecipe.errors import StageError
from llmrecipe.pretrained import elsewhere, folder
from llmrecipe.recipe.model import PretrainedModel
from llmrecipe.recipe.networks.network import Network

_HEAD_FILE = "head.safetensors"

_DROPPED = ("pooler.", "cls.seq_relationship.")
"""Beginnings, after the base model's prefix, of what BERT has for next-sentence prediction and for tasks."""

_AT_ONCE = 1 << 22
"""Numbers that are compared at once."""


@attrs.frozen
class Imported:
    """What was found out about a model while it was imported."""

    rows: int
    """Rows of its token embedding."""

    notes: tuple[str, ...]
    """What a reader of its numbers should know: what was dropped, drawn or expanded."""


def import_model(model: PretrainedModel, network: Network, place: Path, directory: Path) -> Imported:
    """Fill `directory` with what describes the model at `place`, and with those of its weights that lie nowhere else.

    Args:
        model: what was asked for.
        network: its shape.
        place: its folder, or its GGUF file.
        directory: an empty folder; gets all but the card and the tokenizer.

    Raises:
        StageError: weights are missing, have other shapes than the network's, are not its own, or are stored twice with
            different values.
    """
    notes: list[str] = []
    if place.is_file():
        notes.append(expanding.expand_gguf(place, network, directory))
    elif expanding.is_quantized(place):
        notes.append(expanding.expand_compressed(place, network, directory))
    else:
        shutil.copyfile(place / folders.CONFIG_FILE, directory / folders.CONFIG_FILE)
    if place.is_dir():
        folders.copy_generation(place, directory)
    own = tuple(sorted(directory.glob("*.safetensors")))
    names = () if own else folder.contents_of(place).files
    files = own or tuple(place / name for name in names)
    architecture = architecture_of(network)
    weights = PublishedWeights(files, architecture, network)
    rows = weights.shape(architecture.embedding(network))[0]
    built = _on_meta(architecture, directory)
    if model.new_head:
        notes.append(_draw_head(architecture, built.config, weights, model.seed, directory))
        weights = PublishedWeights((*files, directory / _HEAD_FILE), architecture, network)
    notes += _refuse_unfit(place, weights, built, architecture)
    if names:
        elsewhere.write(directory, model, place, names)
    return Imported(rows, tuple(notes))


def _on_meta(architecture: Architecture[Any], directory: Path) -> Any:
    """transformers' network, without memory."""
    config = AutoConfig.from_pretrained(directory, local_files_only=True)
    with torch.device("meta"):
        return architecture.transformers_class(config)


def _refuse_unfit(place: Path, weights: PublishedWeights, built: Any, architecture: Architecture[Any]) -> list[str]:
    """Refuse weights that aren't the network's; what is left out is told."""
    wanted = {name: tuple(tensor.shape) for name, tensor in built.state_dict().items()}
    faults = [f"{name} is missing" for name in weights.missing]
    for name in weights:
        if weights.shape(name) != wanted[name]:
            faults.append(f"{name} is {weights.shape(name)}, and its config.json makes it {wanted[name]}")
    prefix = f"{architecture.transformers_class.base_model_prefix}."
    dropped = [name for name in weights.others if name.removeprefix(prefix).startswith(_DROPPED)]
    faults += [f"{name} has no place in it" for name in weights.others if name not in dropped]
    if built.config.tie_word_embeddings:
        for name, other in architecture.tied.items():
            if name in weights and not faults and not _are_equal(weights[name], weights[other]):
                faults.append(
                    f"{name} and {other} are one by tie_word_embeddings, and are stored with different values; set it "
                    "to false if both are meant"
                )
    if faults:
        raise StageError(f"{place}: its weights are not those of its config.json: {'; '.join(faults)}")
    if not dropped:
        return []
    return [f"{', '.join(dropped)} were left out when it was taken over: nothing here reads them"]


def _are_equal(one: torch.Tensor, other: torch.Tensor) -> bool:
    pairs = zip(one.flatten().split(_AT_ONCE), other.flatten().split(_AT_ONCE), strict=True)
    return all(torch.equal(left, right) for left, right in pairs)


def _draw_head(
    architecture: Architecture[Any], config: PretrainedConfig, weights: PublishedWeights, seed: int, directory: Path
) -> str:
    """Write the weights that are missing, as transformers draws them."""
    if not weights.missing:
        raise StageError(f"{directory.name}: new_head=True, and the weights have a head; leave it out")
    tiny = _without_layers(config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        drawn = architecture.transformers_class(tiny).state_dict()
    embedding = next(iter(weights.values()))
    base = f"{architecture.transformers_class.base_model_prefix}."
    names = [name for name in weights.missing if not name.startswith(base)]
    head = {name: drawn[name].to(embedding.dtype).contiguous() for name in names}
    save_file(head, directory / _HEAD_FILE, metadata={"format": "pt"})
    return f"its output head ({', '.join(sorted(head))}) was drawn with seed {seed}: the weights taken over have none"


def _without_layers(config: PretrainedConfig) -> PretrainedConfig:
    """The configuration with a single layer: its head is drawn alike, and no other weight is needed."""
    tiny = type(config).from_dict(config.to_dict())
    tiny.num_hidden_layers = 1
    if getattr(tiny, "layer_types", None):
        tiny.layer_types = tiny.layer_types[:1]
    return tiny
