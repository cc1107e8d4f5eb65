"""Where PyTorch works, and with how many threads."""

import importlib.util
from pathlib import Path

import torch

from llmrecipe import hardware
from llmrecipe.errors import StageError
from llmrecipe.recipe.machine import Machine

_THREADS = 2
"""CPU threads of a stage's own process, on every machine.

Factorizations, as GPTQ's, and activation functions round differently when their work is cut into another number of
parts. Not more: where there are fewer cores than threads, MKL's threads wait for each other while they keep a core, and
a product of 1536 by 2048 by 1536 takes eighty times as long.
"""


def set_up(machine: Machine) -> torch.device:
    """Give PyTorch its threads, and find the device that `machine` means.

    Raises:
        StageError: `cuda` was asked for and PyTorch sees no GPU.
    """
    torch.set_num_threads(_THREADS)
    if machine.device == "cuda" and not torch.cuda.is_available():
        raise StageError("machine.device: 'cuda' was asked for and PyTorch sees no GPU; use 'cpu' or 'auto'")
    return torch.device("cuda" if machine.device != "cpu" and torch.cuda.is_available() else "cpu")


def processor(device: torch.device) -> str:
    """What computes on a device, by name."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else hardware.cpu()


def choose_kernels(machine: Machine) -> None:
    """Let GPUs compute the same bits every time, where the machine is to be `deterministic`; before the first work."""
    if not machine.deterministic:
        return
    # With `warn_only` attention's backward pass would still add up in any order, and say nothing.
    torch.use_deterministic_algorithms(True)
    # Nothing here reads memory before it writes it.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    # Of the attention kernels, the one that has no such mode.
    torch.backends.cuda.enable_cudnn_sdp(False)


_FLOAT8_CAPABILITY = (8, 9)
"""Of Ada, the first of NVIDIA's GPUs that multiplies in float8."""


def check_precision(precision: str, device: torch.device) -> None:
    """Refuse a device that can't compute in a number format by itself, and float8 without what computes in it.

    Raises:
        StageError: it is a GPU without bfloat16 or float8, and `precision` asks for it; or torchao isn't installed.
    """
    if precision == "float8":
        _check_float8(device)
    if (
        precision == "bfloat16"
        and device.type == "cuda"
        and not torch.cuda.is_bf16_supported(including_emulation=False)
    ):
        raise StageError(
            f"training.precision: 'bfloat16' was asked for, and {torch.cuda.get_device_name(device)} can't compute in "
            "it; use a GPU that can (Ampere or newer), machine.device = 'cpu', or training.precision = 'float32'"
        )


def _check_float8(device: torch.device) -> None:
    if importlib.util.find_spec("torchao") is None:
        raise StageError(
            "training.precision: 'float8' was asked for, and the package torchao that multiplies in it isn't installed "
            "here; `pip install 'llmrecipe[float8]'`"
        )
    if device.type == "cuda" and torch.cuda.get_device_capability(device) < _FLOAT8_CAPABILITY:
        raise StageError(
            f"training.precision: 'float8' was asked for, and {torch.cuda.get_device_name(device)} can't multiply in "
            "it; use a GPU that can (Ada, Hopper or newer), machine.device = 'cpu', or training.precision = 'bfloat16'"
        )


def peak_memory_mb(device: str) -> int:
    """The most memory that this process has held on `device` at once, in megabytes: resident on a CPU."""
    if device == "cuda":
        return round(torch.cuda.max_memory_allocated() / 1e6)
    # getrusage would give the peak of the process that started this one, too: it survives exec.
    status = Path("/proc/self/status").read_text(encoding="ascii")
    kibibytes = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:"))
    return round(kibibytes * 1024 / 1e6)
