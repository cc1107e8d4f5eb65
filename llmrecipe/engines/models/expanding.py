"""Weights in few bits, in full: those of a GGUF file, and those of a folder in the compressed-tensors format."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from compressed_tensors.compressors.base import decompress_module

from llmrecipe import artifacts
from llmrecipe.engines.models.architecture import architecture_of
from llmrecipe.engines.models.stored import put_on_disk, write_weights
from llmrecipe.engines.models.table import deinterleave, names_in_transformers
from llmrecipe.pretrained import gguf
from llmrecipe.pretrained.contents import Tensor
from llmrecipe.pretrained.folder import CONFIG
from llmrecipe.recipe.networks.llama import Llama
from llmrecipe.recipe.networks.network import Network

_ROTATED = (".q_proj.weight", ".k_proj.weight")


def expand_gguf(place: Path, network: Network, directory: Path) -> None:
    """Write the model of a GGUF file to `directory`, in float32: `config.json` and its weights, one at a time.

    llama.cpp's numbers in few bits are exactly these; no other format of 16 bits holds all of them.
    """
    found = gguf.contents_of(place)
    artifacts.write_json(directory / CONFIG, found.config | {"dtype": "float32"})
    write_weights(directory, _expanded(place, found.tensors, network))


def _expanded(place: Path, tensors: dict[str, Tensor], network: Network) -> Iterator[tuple[str, torch.Tensor]]:
    # Of an extra.
    import numpy as np
    from gguf import GGMLQuantizationType, quants

    stored = np.memmap(place, mode="r")
    for name, tensor in sorted(tensors.items()):
        raw = stored[tensor.start : tensor.start + tensor.size]
        kind = GGMLQuantizationType[tensor.dtype]
        rows = raw.reshape(tensor.shape[0], -1) if len(tensor.shape) > 1 else raw
        numbers = quants.dequantize(rows, kind).astype(np.float32, copy=False).reshape(tensor.shape)
        whole = torch.from_numpy(np.array(numbers))
        # llama.cpp pairs neighbouring channels in the rotary positions of Llama, as nanotron does.
        if isinstance(network, Llama) and name.endswith(_ROTATED):
            whole = deinterleave(whole, network.head_size)
        yield name, whole


def expand_compressed(place: Path, network: Network, directory: Path) -> None:
    """Write the model of a folder in the compressed-tensors format to `directory`, its weights in full."""
    architecture = architecture_of(network)
    loaded: Any = architecture.transformers_class.from_pretrained(place, dtype="auto", local_files_only=True)
    for module in loaded.modules():
        if hasattr(module, "quantization_scheme"):
            decompress_module(module)
            put_on_disk(module, directory)
    config = artifacts.read_json(place / CONFIG)
    del config["quantization_config"]
    artifacts.write_json(directory / CONFIG, config)
    state = loaded.state_dict()
    names = sorted(names_in_transformers(architecture.weights(network)))
    write_weights(directory, ((name, state[name]) for name in names))
