"""Weights on disk, written one at a time."""

from collections.abc import Iterable
from pathlib import Path

import torch
from huggingface_hub import save_torch_state_dict


def write_weights(directory: Path, weights: Iterable[tuple[str, torch.Tensor]]) -> None:
    """Write weights as safetensors, in files of at most 5 GB: the same weights give the same bytes."""
    state = {name: tensor.contiguous() for name, tensor in weights}
    save_torch_state_dict(state, directory, max_shard_size="5GB")
