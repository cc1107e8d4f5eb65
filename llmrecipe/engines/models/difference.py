"""How far two checkpoints' weights are apart, as one line of JSON: `python -m … CHECKPOINT CHECKPOINT`.

A program, so the caller needs no torch.
"""

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file


def weights_difference(one: Path, other: Path) -> dict[str, str | float]:
    """The largest absolute difference of a weight (`largest`), and which it is (`where`).

    Infinite if the checkpoint artifacts `one` and `other` don't hold weights of the same names, shapes and formats,
    or if a difference is not a number.
    """
    first, second = _load(one), _load(other)
    forms = [{name: (tensor.shape, tensor.dtype) for name, tensor in weights.items()} for weights in (first, second)]
    largest, where = 0.0, ""
    for name in sorted(first.keys() | second.keys()):
        difference = float("inf")
        if forms[0].get(name) == forms[1].get(name):
            # In float64, where no difference of two weights is rounded.
            distance = (first[name].double() - second[name].double()).abs().max()
            difference = torch.nan_to_num(distance, nan=float("inf"), posinf=float("inf")).item()
        if difference > largest:
            largest, where = difference, name
    return {"largest": largest, "where": where}


def _load(directory: Path) -> dict[str, torch.Tensor]:
    weights: dict[str, torch.Tensor] = {}
    for file in sorted(directory.glob("*.safetensors")):
        weights |= load_file(file)
    return weights


if __name__ == "__main__":
    json.dump(weights_difference(Path(sys.argv[1]), Path(sys.argv[2])), sys.stdout)
