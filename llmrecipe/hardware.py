"""What this machine has, without asking PyTorch."""

import os
import platform
import shutil
import subprocess
from pathlib import Path

GPUS = Path("/proc/driver/nvidia/gpus")
"""One folder for each NVIDIA GPU, with or without CUDA installed."""

_CPUINFO = Path("/proc/cpuinfo")

_MEMINFO = Path("/proc/meminfo")

_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
"""What a container may use, in the second and the first version of Linux's control groups."""


def num_gpus() -> int:
    """NVIDIA GPUs in this machine, without asking CUDA."""
    return len(list(GPUS.iterdir())) if GPUS.is_dir() else 0


def cpu() -> str:
    """The cores that this process may use, and of which processor: `2 cores of AMD EPYC 7763`."""
    lines = _CPUINFO.read_text(encoding="utf-8").splitlines()
    name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
    cores = len(os.sched_getaffinity(0))
    return f"{cores} core{'s' if cores > 1 else ''} of {name}"


def memory() -> int:
    """Bytes of memory that all processes here can hold, without swap."""
    lines = _MEMINFO.read_text(encoding="ascii").splitlines()
    total = next(int(line.split()[1]) for line in lines if line.startswith("MemTotal:")) * 1024
    limits = [path.read_text(encoding="ascii").strip() for path in _LIMITS if path.is_file()]
    return min([total, *(int(limit) for limit in limits if limit.isdecimal())])


def gpu_memory() -> int | None:
    """Bytes of the smallest GPU here; None if the driver's program doesn't tell."""
    program = shutil.which("nvidia-smi")
    if program is None or num_gpus() == 0:
        return None
    asked = [program, "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    try:
        found = subprocess.run(asked, capture_output=True, text=True, timeout=10).stdout.split()
    except subprocess.TimeoutExpired:
        return None
    sizes = [int(each) for each in found if each.isdecimal()]
    return min(sizes) << 20 if sizes else None
