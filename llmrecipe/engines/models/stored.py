"""Weights on disk: tensors whose memory is a file, so that a model of any size passes through a machine of any size.

Linux counts such memory as a cache: it writes it back and takes it away where something else needs it. What safetensors
reads is of this kind by itself, as long as nobody writes into it.
"""

import mmap
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

import torch
from huggingface_hub import save_torch_state_dict
from torch import nn


def write_weights(directory: Path, weights: Iterable[tuple[str, torch.Tensor]]) -> None:
    """Write weights as safetensors, in files of at most 5 GB: the same weights give the same bytes.

    No more than one of them is in memory, if they are made one at a time.
    """
    state = {name: on_disk(tensor, directory) for name, tensor in weights}
    save_torch_state_dict(state, directory, max_shard_size="5GB")


def on_disk(tensor: torch.Tensor, folder: Path) -> torch.Tensor:
    """The same numbers in a file without a name in `folder`, on the CPU; it is gone with the last tensor on it.

    Raises:
        OSError: the disk is full.
    """
    if tensor.nbytes == 0:
        return tensor
    with tempfile.TemporaryFile(dir=folder) as file:
        # Not `truncate`: a disk that is full would kill the process while it writes to the memory.
        os.posix_fallocate(file.fileno(), 0, tensor.nbytes)
        memory = mmap.mmap(file.fileno(), tensor.nbytes)
    mapped = torch.frombuffer(memory, dtype=torch.uint8).view(tensor.dtype).view(tensor.shape)
    return mapped.copy_(tensor.detach())


def put_on_disk(module: nn.Module, folder: Path) -> None:
    """Move the parameters of a module on the CPU into files without names in `folder`."""
    for parameter in module.parameters():
        parameter.data = on_disk(parameter.data, folder)


def same_memory(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether two tensors are the same bytes in the same place."""
    return (one.data_ptr(), one.nbytes) == (other.data_ptr(), other.nbytes)
