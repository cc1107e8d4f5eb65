"""Rotary positions, with the scaling that a decoder asks for."""

import functools
import math
from collections.abc import Callable

import torch

from llmrecipe.recipe.networks.decoder import Decoder, Llama3RopeScaling


class RotaryEmbedding(torch.nn.Module):
    """Rotary positions (Su et al. 2021) that pair neighbouring channels of a head, as nanotron's weights have them."""

    def __init__(self, dim: int, base: float, *, stretch: Callable[[torch.Tensor], torch.Tensor] | None = None) -> None:
        super().__init__()
        self.dim = dim
        self.base = base
        self.stretch = stretch
        self._table: torch.Tensor | None = None

    def forward(self, heads: torch.Tensor, positions: torch.Tensor | None = None) -> torch.Tensor:
        """Rotate `[length, batch, heads, dim]` by its positions, in float32.

        `positions` are `int64[batch, length]`, each below `length`; None counts from the beginning of the sequences.
        """
        length = heads.shape[0]
        table = self.prepare(length, heads.device)
        pairs = heads.float().unflatten(-1, (-1, 2))
        angles = table[:length] if positions is None else table[positions.t(), 0]
        return _turned(pairs, angles).flatten(-2).to(heads.dtype)

    def prepare(self, length: int, device: torch.device) -> torch.Tensor:
        """Have the angles of at least so many positions; a compiled layer needs them before it is compiled."""
        if self._table is None or self._table.shape[0] < length or self._table.device != device:
            self._table = self._angles(length, device)
        return self._table

    def _angles(self, length: int, device: torch.device) -> torch.Tensor:
        exponents = torch.arange(0, self.dim, 2, dtype=torch.float32, device=device) / self.dim
        # As flash-attn and transformers round it: another form of the same power is off by 2e-5 in the logits.
        frequencies = 1.0 / (self.base**exponents)
        if self.stretch is not None:
            frequencies = self.stretch(frequencies)
        angles = torch.outer(torch.arange(length, dtype=torch.float32, device=device), frequencies)
        # Cosine and sine, side by side.
        return torch.view_as_real(torch.polar(torch.ones_like(angles), angles))[:, None, None]


def _turned(pairs: torch.Tensor, angles: torch.Tensor) -> torch.Tensor:
    """Points of the plane `[…, 2]` turned by angles, which are given as points of the unit circle."""
    if not torch.compiler.is_compiling():
        return torch.view_as_real(torch.view_as_complex(pairs) * torch.view_as_complex(angles))
    # The same product for torch's compiler, which knows no complex numbers.
    (x, y), (cosine, sine) = pairs.unbind(-1), angles.unbind(-1)
    return torch.stack((x * cosine - y * sine, x * sine + y * cosine), dim=-1)


def rotary_of(network: Decoder) -> RotaryEmbedding:
    """What rotates the queries and keys of all layers."""
    scaling = network.rope_scaling
    stretch = functools.partial(stretched, scaling=scaling) if scaling else None
    return RotaryEmbedding(network.head_size, network.rope_theta, stretch=stretch)


def stretched(frequencies: torch.Tensor, scaling: Llama3RopeScaling) -> torch.Tensor:
    """Frequencies as Llama 3.1 scales them; see `Llama3RopeScaling`."""
    length, low, high = scaling.original_max_position_embeddings, scaling.low_freq_factor, scaling.high_freq_factor
    wavelengths = 2 * math.pi / frequencies
    # 0 where all is stretched, and 1 where nothing is.
    share = (length / wavelengths - low) / (high - low)
    between = (1 - share) * frequencies / scaling.factor + share * frequencies
    long, short = wavelengths > length / low, wavelengths < length / high
    return torch.where(long, frequencies / scaling.factor, torch.where(short, frequencies, between))
