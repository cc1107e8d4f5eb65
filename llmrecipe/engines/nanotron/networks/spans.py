"""Attention to what comes before a token in its document and its window, without a mask of all tokens by all.

It goes over the tokens of a micro-batch in pieces, so its memory grows with the length of sequences and not with its
square.
"""

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import cast

import attrs
import torch
from torch.nn import functional
from torch.nn.attention.varlen import varlen_attn

PIECE = 128
"""Tokens of a piece that holds several documents, at the most. With fewer a kernel has too little to do, and with more
most of what it computes isn't read: 512 took twice as long where documents have 75 tokens."""


@attrs.frozen(eq=False)
class Piece:
    """Tokens whose attention is computed at once."""

    length: int
    """How many."""

    before: int = 0
    """How many of the pieces before it they read, too."""

    attended: torch.Tensor | None = None
    """Whether a token reads another, `bool[length, tokens read]`; None if each reads all up to itself."""


class Spans:
    """The documents of a micro-batch, end to end, and how far a token reads in its own."""

    def __init__(self, lengths: Sequence[int], window: int | None, device: torch.device) -> None:
        """From the documents' tokens, and how many of them a token reads at most, itself included; None for all."""
        self.lengths = lengths
        self.window = window
        self.device = device

    @cached_property
    def bounds(self) -> torch.Tensor:
        """Where each document begins, and where the last one ends, `int32[documents + 1]`."""
        return torch.tensor([0, *self.lengths]).cumsum(0).to(self.device, torch.int32)

    @cached_property
    def pieces(self) -> list[Piece]:
        """Short documents joined, long ones by themselves, and in parts where they are longer than the window."""
        found: list[Piece] = []
        short: list[int] = []
        for length in self.lengths:
            if short and sum(short) + length > PIECE:
                found.append(self._joined(short))
                short = []
            if length <= PIECE:
                short.append(length)
            else:
                found += self._parts(length)
        return [*found, self._joined(short)] if short else found

    def _joined(self, lengths: Sequence[int]) -> Piece:
        length = sum(lengths)
        if len(lengths) == 1 and (self.window is None or length <= self.window):
            return Piece(length)
        documents = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths)).to(self.device)
        return Piece(length, 0, self._near(length, 0) & (documents[:, None] == documents))

    def _parts(self, length: int) -> Iterator[Piece]:
        if self.window is None or length <= self.window:
            yield Piece(length)
            return
        # Of longer parts more is computed that isn't read; for shorter ones keys and values are copied more often.
        size = max(PIECE, -(-self.window // 2))
        # Most are equal.
        masks: dict[tuple[int, int], torch.Tensor] = {}
        for start in range(0, length, size):
            shape = min(size, length - start), start - max(0, start - self.window + 1) // size * size
            if shape not in masks:
                masks[shape] = self._near(*shape)
            yield Piece(shape[0], shape[1] // size, masks[shape])

    def _near(self, length: int, before: int) -> torch.Tensor:
        """Whether tokens read each other and those before the first, if all are of one document."""
        near = torch.ones(length, before + length, dtype=torch.bool, device=self.device).tril_(before)
        return near if self.window is None else near.triu_(before - self.window + 1)


# The documents are others in every micro-batch: nothing that could be compiled once.
@torch.compiler.disable
def spanned_attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, spans: Spans) -> torch.Tensor:
    """Attention of `[tokens, heads, dim]`, grouped queries included."""
    if query.device.type == "cuda" and query.dtype != torch.float32:
        # One kernel for all documents and the window, which knows 16 bits only, and in torch 2.11 no grouped queries.
        key, value = (x.repeat_interleave(query.shape[1] // x.shape[1], dim=1) for x in (key, value))
        longest, reach = max(spans.lengths), -1 if spans.window is None else spans.window - 1
        found = varlen_attn(query, key, value, spans.bounds, spans.bounds, longest, longest, window_size=(reach, 0))
        return cast(torch.Tensor, found)
    # Not slices: the gradient of each would be as large as all tokens.
    queries, keys, values = (x.split([piece.length for piece in spans.pieces]) for x in (query, key, value))
    outputs = []
    for number, piece in enumerate(spans.pieces):
        read = slice(number - piece.before, number + 1)
        outputs.append(_of_piece(queries[number], _joined(keys[read]), _joined(values[read]), piece.attended))
    return _joined(outputs)


def _joined(pieces: tuple[torch.Tensor, ...] | list[torch.Tensor]) -> torch.Tensor:
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces)


def _of_piece(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attended: torch.Tensor | None
) -> torch.Tensor:
    is_grouped = query.shape[1] != key.shape[1]
    query, key, value = (x.transpose(0, 1)[None] for x in (query, key, value))
    if attended is None:
        output = functional.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=is_grouped)
    else:
        # Of torch's kernels for GPUs, the one that takes a mask knows no grouped queries.
        key, value = (x.repeat_interleave(query.shape[1] // x.shape[1], dim=1) for x in (key, value))
        output = functional.scaled_dot_product_attention(query, key, value, attended)
    return output[0].transpose(0, 1)
