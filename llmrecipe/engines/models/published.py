"""Weights as they are published: under older names, without the base model's prefix, or with more than is needed."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from transformers import AutoConfig, PreTrainedModel

from llmrecipe.engines.models.architecture import Architecture, architecture_of
from llmrecipe.engines.models.table import names_in_transformers
from llmrecipe.errors import StageError
from llmrecipe.pretrained import elsewhere
from llmrecipe.recipe.networks.network import Network

_OLD_ENDINGS = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}
"""TensorFlow's names, which the first BERTs kept."""

_BUFFERS = ("position_ids", "inv_freq", "masked_bias", "token_type_ids")
"""Endings of what isn't a weight, and which transformers computes."""


class PublishedWeights(Mapping[str, torch.Tensor]):
    """Weights under transformers' names, read from their files each time that one is asked for.

    They are mapped into memory, and no one is held.
    """

    def __init__(self, files: Iterable[Path], architecture: Architecture[Any], network: Network) -> None:
        self._places: dict[str, tuple[Path, str]] = {}
        self.others: list[str] = []
        """Names of what the network has no place for."""
        known = names_in_transformers(architecture.weights(network)) | architecture.tied.keys()
        for path in files:
            with safe_open(path, "pt") as file:
                for name in file.keys():  # noqa: SIM118
                    ours = _today(name, known, architecture.transformers_class.base_model_prefix)
                    if ours is not None:
                        self._places[ours] = (path, name)
                    elif not name.endswith(_BUFFERS):
                        self.others.append(name)
        self.missing = sorted(known - self._places.keys() - architecture.tied.keys())
        """Names of what the network needs, and no file has."""

    def __getitem__(self, name: str) -> torch.Tensor:
        path, stored = self._places[name]
        with safe_open(path, "pt") as file:
            return file.get_tensor(stored)

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of one, without reading it."""
        path, stored = self._places[name]
        with safe_open(path, "pt") as file:
            return tuple(file.get_slice(stored).get_shape())


def load(directory: Path, network: Network) -> PreTrainedModel:
    """The model artifact in `directory`, whose weights lie elsewhere, ready for inference.

    Raises:
        StageError: weights are missing.
    """
    architecture = architecture_of(network)
    weights = PublishedWeights(elsewhere.files_of(directory), architecture, network)
    if weights.missing:
        raise StageError(f"{directory}: the weights {', '.join(weights.missing)} are missing; run `dvc repro`")
    config = AutoConfig.from_pretrained(directory, local_files_only=True)
    return architecture.assembled(config, weights).eval()


def _today(name: str, known: set[str], prefix: str) -> str | None:
    """transformers' name of today for a weight; None if the network has no such weight."""
    for old, new in _OLD_ENDINGS.items():
        if name.endswith(old):
            name = name.removesuffix(old) + new
    for candidate in (name, f"{prefix}.{name}", name.removeprefix(f"{prefix}.")):
        if candidate in known:
            return candidate
    return None
