"""Where PyTorch works, and with how many threads."""

import torch

from llmrecipe.errors import StageError
from llmrecipe.recipe.runtime import Runtime


def set_up(runtime: Runtime) -> torch.device:
    """Give PyTorch the threads that `runtime` grants, and find the device that it means on this machine.

    Raises:
        StageError: `cuda` was asked for and PyTorch sees no GPU.
    """
    torch.set_num_threads(runtime.threads_per_rank)
    if runtime.device == "cuda" and not torch.cuda.is_available():
        raise StageError("runtime.device: 'cuda' was asked for and PyTorch sees no GPU; use 'cpu' or 'auto'")
    return torch.device("cuda" if runtime.device != "cpu" and torch.cuda.is_available() else "cpu")
