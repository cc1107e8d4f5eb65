"""What a network is reading."""

from collections.abc import Sequence

import attrs
import torch
from nanotron.parallel.pipeline_parallel.tensor_pointer import TensorPointer

from llmrecipe.engines.nanotron.networks.spans import Spans
from llmrecipe.engines.tokens.packing import PackedDocuments

Placed = torch.Tensor | TensorPointer
"""A tensor, or where in the pipeline it is."""


@attrs.frozen(kw_only=True, eq=False, slots=False)
class Reach:
    """What the tokens of a micro-batch read, where that isn't simply all that come before."""

    documents: PackedDocuments | None = None
    """Those that they keep to; None reads a sequence as one."""

    window: int | None = None
    """How many tokens they read at most, themselves included; None for all."""

    positions: torch.Tensor | None = None
    """Each token's place, `int64[batch, length]`; None counts from the beginning of the sequences."""

    spans: Spans | None = None
    """The same for attention; None for all that come before."""

    def attended(self, length: int, device: torch.device) -> torch.Tensor:
        """Whether a token (third dimension) reads another (fourth), `bool[batch or 1, 1, length, length]`."""
        recent = within(length, length if self.window is None else self.window - 1, 0, device)
        return recent if self.documents is None else recent & self.documents.attended


class MicroBatchInFlight:
    """What the network is reading; nanotron's blocks pass on tensors alone."""

    samples: Sequence[int] = ()

    _mask: torch.Tensor | None = None

    def reach(self, mask: torch.Tensor, *, restart_at_documents: bool, window: int | None) -> Reach:
        """What a decoder's tokens read, found once for all layers that hand the mask on.

        Args:
            mask: as `data.CausalReader` makes it, `[batch, length]`.
            restart_at_documents: whether they read only tokens of their own document.
            window: how many tokens they read at most, themselves included; None for all.
        """
        if mask is not self._mask:
            self._mask, self._reach = mask, _reach(mask, restart_at_documents, window)
        return self._reach


def within(length: int, before: int, after: int, device: torch.device) -> torch.Tensor:
    """Whether a token (third dimension) is at most so far from another (fourth), `bool[1, 1, length, length]`.

    Args:
        length: of a sequence.
        before: places that it may be after the other.
        after: and before it.
        device: where the mask is.
    """
    everything = torch.ones(1, 1, length, length, dtype=torch.bool, device=device)
    return everything.triu_(-before).tril_(after)


def _reach(mask: torch.Tensor, restart_at_documents: bool, window: int | None) -> Reach:
    batch, length = mask.shape
    window = window if window is not None and window < length else None
    if restart_at_documents:
        documents = PackedDocuments(~mask)
        spans = Spans(documents.lengths, window, mask.device)
        return Reach(documents=documents, window=window, positions=documents.positions, spans=spans)
    return Reach(window=window, spans=None if window is None else Spans([length] * batch, window, mask.device))
