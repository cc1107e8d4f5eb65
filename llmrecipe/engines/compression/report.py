"""What quantizing did to the size of a model."""

from collections.abc import Mapping
from pathlib import Path

import attrs

from llmrecipe.pretrained import elsewhere
from llmrecipe.pretrained.safetensors import header

_PARTS = ("weight", "weight_packed", "weight_scale", "weight_zero_point", "weight_global_scale")
"""What compressed-tensors stores of a layer's weights."""


@attrs.frozen(kw_only=True)
class Report:
    """What quantizing did to the size of a model, and how it went."""

    bits_per_linear_weight: float
    """Bits that the linear layers but the output layer take in the files, with scales and zero points and whatever
    isn't rounded of them, over the number of their weights."""

    calibration_sequences: int
    """Sequences that calibrated the scheme."""

    dense_bytes: int
    """Size of the weights files of the model before."""

    expanded_bytes: int
    """Size of the quantized model's weights in the memory of transformers, which expands them to compute with them;
    scales come on top."""

    gptq_layers: int
    """Layers that GPTQ was to round; 0 for another way of rounding."""

    gptq_layers_rounded_to_nearest: int
    """Those of them for which it failed."""

    quantized_bytes: int
    """Size of the weights files of the quantized model."""

    ratio: float
    """`dense_bytes` over `quantized_bytes`."""


def bits_per_weight(directory: Path, layers: Mapping[str, int]) -> float:
    """Bits that some layers of a model take in its files for each of their weights.

    Args:
        directory: the model.
        layers: how many weights a layer has, by its name.
    """
    stored = {name: tensor.size for file in elsewhere.files_of(directory) for name, tensor in header(file).items()}
    return 8 * sum(stored.get(f"{layer}.{part}", 0) for layer in layers for part in _PARTS) / sum(layers.values())
