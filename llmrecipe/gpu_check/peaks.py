"""The most floating-point operations that a device does in a second."""

import re
import statistics
import time

import attrs
import torch

PUBLISHED = {
    "B200": 2250e12,
    "H200": 989e12,
    "GH200": 989e12,
    "H100 NVL": 835e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L4": 121e12,
}
"""bfloat16 with float32 sums, without sparsity, by NVIDIA's data sheets; of the names that fit, the longest counts."""

_SIZES = {"cuda": 8192, "cpu": 1024}
_TIMES = 5


@attrs.frozen
class Peak:
    """A device's best."""

    flops: float
    """Operations a second."""

    origin: str
    """Where that is from."""

    def __str__(self) -> str:
        return f"{self.flops / 1e12:,.3g} TFLOP/s ({self.origin})"


def peak_of(device: str) -> Peak:
    """What the GPU's data sheet says, or else what the best of some large products came to."""
    name = torch.cuda.get_device_name() if device == "cuda" else ""
    known = sorted((each for each in PUBLISHED if re.search(rf"\b{each}\b", name)), key=len)
    return Peak(PUBLISHED[known[-1]], f"data sheet, {known[-1]}") if known else Peak(_product(device), "a product here")


def _product(device: str) -> float:
    size, dtype = _SIZES[device], torch.bfloat16 if device == "cuda" else torch.float32
    left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    seconds = []
    for _ in range(_TIMES):
        started = time.perf_counter()
        (left @ right)[0, 0].item()
        seconds.append(time.perf_counter() - started)
    del left, right
    if device == "cuda":
        # Ranks are about to need it.
        torch.cuda.empty_cache()
    return 2 * size**3 / statistics.median(seconds)
