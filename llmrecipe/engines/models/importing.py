"""Somebody's model to an artifact that stages can read: verified, described, and with its weights where they lie."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import AutoConfig

from llmrecipe.engines.models import expanding, folders
from llmrecipe.engines.models.architecture import architecture_of
from llmrecipe.engines.models.published import PublishedWeights
from llmrecipe.errors import StageError
from llmrecipe.pretrained import elsewhere
from llmrecipe.pretrained.folder import CONFIG
from llmrecipe.pretrained.reading import Reading
from llmrecipe.recipe.model import PretrainedModel
from llmrecipe.recipe.networks.network import Network

_HEAD_FILE = "head.safetensors"

_AT_ONCE = 1 << 22
"""Numbers that are compared at once."""


def import_model(model: PretrainedModel, reading: Reading, network: Network, place: Path, directory: Path) -> None:
    """Fill `directory` with what describes the model at `place`, and with those of its weights that lie nowhere else.

    Args:
        model: what was asked for.
        reading: what its files say, without faults.
        network: its shape.
        place: its folder, or its GGUF file.
        directory: an empty folder; gets all but the card and the tokenizer.

    Raises:
        StageError: weights that are one are stored twice with different values.
    """
    if place.is_file():
        expanding.expand_gguf(place, network, directory)
    elif model.dequantize:
        expanding.expand_compressed(place, network, directory)
    else:
        shutil.copyfile(place / CONFIG, directory / CONFIG)
    if place.is_dir():
        folders.copy_generation(place, directory)
    own = tuple(sorted(directory.glob("*.safetensors")))
    files = own or tuple(place / name for name in reading.contents.files)
    weights = PublishedWeights(files, network)
    _refuse_two_values(place, weights, network.weights(reading.rows).tied)
    if model.new_head:
        _draw_head(weights, network, model.seed, directory)
    if not own:
        elsewhere.write(directory, model, place, reading.contents.files)


def _refuse_two_values(place: Path, weights: PublishedWeights, tied: Mapping[str, str]) -> None:
    for name, other in tied.items():
        if name in weights and not _are_equal(weights[name], weights[other]):
            raise StageError(
                f"{place}: {name} and {other} are one weight by tie_word_embeddings in its config.json, and are stored "
                "with different values; set it to false if both are meant"
            )


def _are_equal(one: torch.Tensor, other: torch.Tensor) -> bool:
    if one.shape != other.shape:
        return False
    pairs = zip(one.flatten().split(_AT_ONCE), other.flatten().split(_AT_ONCE), strict=True)
    return all(torch.equal(left, right) for left, right in pairs)


def _draw_head(weights: PublishedWeights, network: Network, seed: int, directory: Path) -> None:
    """Write the weights of the head, which are missing, as transformers draws them."""
    architecture = architecture_of(network)
    config: Any = AutoConfig.from_pretrained(directory, local_files_only=True)
    # The head is drawn alike whatever is below it.
    config.num_hidden_layers = 1
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[:1]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        drawn = architecture.transformers_class(config).state_dict()
    dtype = weights[architecture.embedding(network)].dtype
    head = {name: drawn[name].to(dtype).contiguous() for name in weights.missing_of_head}
    save_file(head, directory / _HEAD_FILE, metadata={"format": "pt"})
