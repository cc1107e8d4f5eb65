"""Weights as they are published: under older names, without the base model's prefix, or with more than is needed."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from transformers import AutoConfig, PreTrainedModel

from llmrecipe.engines.models.architecture import architecture_of
from llmrecipe.pretrained import elsewhere
from llmrecipe.recipe.networks.network import Network


class PublishedWeights(Mapping[str, torch.Tensor]):
    """Weights under transformers' names, read from their files each time that one is asked for.

    They are mapped into memory, and no one is held.
    """

    def __init__(self, files: Iterable[Path], network: Network) -> None:
        self._places: dict[str, tuple[Path, str]] = {}
        # Names are the same whatever the vocabulary.
        expected = network.weights(1)
        known = {*expected.body, *expected.head, *expected.tied}
        for path in files:
            with safe_open(path, "pt") as file:
                for name in file.keys():  # noqa: SIM118
                    own = expected.own_name(name)
                    if own in known:
                        self._places[own] = (path, name)
        self.missing_of_head = sorted(expected.head.keys() - self._places.keys())
        """Names of the output head's weights that no file has."""

    def __getitem__(self, name: str) -> torch.Tensor:
        path, stored = self._places[name]
        with safe_open(path, "pt") as file:
            return file.get_tensor(stored)

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


def load(directory: Path, network: Network) -> PreTrainedModel:
    """The model artifact in `directory`, whose weights lie elsewhere, ready for inference.

    Raises:
        StageError: they aren't there any more, or as they were.
    """
    weights = PublishedWeights(elsewhere.files_of(directory), network)
    config = AutoConfig.from_pretrained(directory, local_files_only=True)
    return architecture_of(network).assembled(config, weights).eval()
