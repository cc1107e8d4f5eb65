"""Rotary positions of a decoder, with the scaling that it asks for."""

import functools
import math

import torch

from llmrecipe.engines.nanotron.port.attention import RotaryEmbedding
from llmrecipe.recipe.networks.decoder import Decoder, Llama3RopeScaling


def rotary_of(network: Decoder) -> RotaryEmbedding:
    """What rotates the queries and keys of all layers."""
    scaling = network.rope_scaling
    stretch = functools.partial(stretched, scaling=scaling) if scaling else None
    return RotaryEmbedding(network.head_size, network.rope_theta, interleaved=True, stretch=stretch)


def stretched(frequencies: torch.Tensor, scaling: Llama3RopeScaling) -> torch.Tensor:
    """Frequencies as Llama 3.1 scales them; see `Llama3RopeScaling`."""
    length, low, high = scaling.original_max_position_embeddings, scaling.low_freq_factor, scaling.high_freq_factor
    wavelengths = 2 * math.pi / frequencies
    # 0 where all is stretched, and 1 where nothing is.
    share = (length / wavelengths - low) / (high - low)
    between = (1 - share) * frequencies / scaling.factor + share * frequencies
    long, short = wavelengths > length / low, wavelengths < length / high
    return torch.where(long, frequencies / scaling.factor, torch.where(short, frequencies, between))
