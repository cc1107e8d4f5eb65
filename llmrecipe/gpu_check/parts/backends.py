"""Whether the libraries load on this machine, and which kernels they have."""

import dataclasses
import importlib
import importlib.metadata
import os
import platform
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import torch
from torch.distributed.launcher.api import LaunchConfig
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from llmrecipe import hardware
from llmrecipe.engines.device import check_precision, choose_kernels
from llmrecipe.engines.nanotron.port import bootstrap
from llmrecipe.errors import StageError
from llmrecipe.gpu_check.outcome import Outcome, Row
from llmrecipe.gpu_check.scale import Scale
from llmrecipe.recipe.machine import Machine

_HEADS, _LENGTH, _HEAD_DIM = 8, 1024, 64

_FLASH, _EFFICIENT = SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION


def run(scale: Scale, folder: Path) -> Outcome:
    """Ask each thing by itself; training can't do without what is `needed`."""
    device = scale.device
    needed: dict[str, Callable[[], str]] = {
        "Python": platform.python_version,
        "PyTorch": lambda: f"{torch.__version__}, built for CUDA {torch.version.cuda}",
        "nanotron": lambda: _nanotron(device),
        "llmcompressor": _llmcompressor,
        "flash attention": lambda: _attention(_FLASH, device),
    }
    useful: dict[str, Callable[[], str]] = {
        "memory-efficient attention": lambda: _attention(_EFFICIENT, device),
        # Where it is there, no key or value has to be copied for each of its query heads.
        "the same of grouped queries in float32": lambda: _attention(_EFFICIENT, device, torch.float32, heads=2),
        "cuDNN's attention": lambda: _attention(SDPBackend.CUDNN_ATTENTION, device),
        "launcher": _launcher,
        "compiler": lambda: _place_of(os.environ.get("CXX", "g++")),
        "Triton": lambda: importlib.metadata.version("triton"),
    }
    if device == "cuda":
        needed |= {"GPUs": _gpus, "bfloat16": _bfloat16, "NCCL": lambda: ".".join(map(str, torch.cuda.nccl.version()))}
        useful |= {"nvidia-smi": lambda: f"{_place_of('nvidia-smi')}; {hardware.num_gpus()} GPUs by the driver"}
    # After all others, for which these kernels would be chosen, too.
    needed |= {"flash attention, exact": lambda: _exact_attention(_FLASH, device)}
    rows: list[Row] = []
    failures: list[str] = []
    for name, ask in (useful | needed).items():
        try:
            found, works = ask(), True
        # Whatever goes wrong in a library is the answer.
        except Exception as error:
            found, works = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}", False
        rows.append({"what": name, "works": works, "found": found})
        if not works and name in needed:
            failures.append(f"{name}: {found}")
    return Outcome(tables={"libraries and kernels": rows}, failures=failures)


def _nanotron(device: Literal["cuda", "cpu"]) -> str:
    bootstrap.load(device)
    importlib.import_module("llmrecipe.engines.nanotron.trainer")
    return f"{bootstrap.VERSION}, loaded for {device}"


def _llmcompressor() -> str:
    importlib.import_module("llmrecipe.stages.quantize")
    return importlib.metadata.version("llmcompressor")


def _gpus() -> str:
    properties = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    return "; ".join(
        f"{each.name}, {each.total_memory / 1e9:.1f} GB, sm_{each.major}{each.minor}" for each in properties
    )


def _bfloat16() -> str:
    check_precision("bfloat16", torch.device("cuda"))
    return "by itself"


def _launcher() -> str:
    known = {field.name for field in dataclasses.fields(LaunchConfig)}
    return ", ".join(
        f"{'with' if name in known else 'without'} {name}" for name in ("shutdown_timeout", "numa_options")
    )


def _place_of(program: str) -> str:
    found = shutil.which(program)
    if found is None:
        raise StageError(f"{program} isn't here")
    return found


def _attention(kernel: SDPBackend, device: str, dtype: torch.dtype = torch.bfloat16, heads: int = _HEADS) -> str:
    _gradients(kernel, device, dtype, heads)
    return "forward and backward"


def _exact_attention(kernel: SDPBackend, device: str) -> str:
    choose_kernels(Machine())
    first, second = (_gradients(kernel, device, torch.bfloat16, _HEADS) for _ in range(2))
    if not all(map(torch.equal, first, second)):
        raise StageError("two backward passes differ, though deterministic kernels are chosen")
    return "the same bits in two backward passes"


def _gradients(kernel: SDPBackend, device: str, dtype: torch.dtype, heads: int) -> tuple[torch.Tensor, ...]:
    """Of queries, and of so many keys and values, of causal attention."""
    draw = torch.Generator().manual_seed(0)
    query, key, value, weights = (
        torch.randn(2, count, _LENGTH, _HEAD_DIM, generator=draw).to(device, dtype)
        for count in (_HEADS, heads, heads, _HEADS)
    )
    states = [state.requires_grad_() for state in (query, key, value)]
    with sdpa_kernel(kernel):
        given = scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=heads != _HEADS)
    return torch.autograd.grad(given, states, weights)
