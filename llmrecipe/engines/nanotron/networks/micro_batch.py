"""What a network is reading."""

from collections.abc import Sequence

import attrs
import torch
from nanotron.parallel.pipeline_parallel.tensor_pointer import TensorPointer

from llmrecipe.engines.tokens.packing import PackedDocuments

Placed = torch.Tensor | TensorPointer
"""A tensor, or where in the pipeline it is."""


@attrs.frozen(eq=False)
class Reach:
    """What the tokens of a micro-batch read, where that isn't simply all that come before."""

    positions: torch.Tensor | None = None
    """Each token's place, `int64[batch, length]`; None counts from the beginning of the sequences."""

    attended: torch.Tensor | None = None
    """Whether a token (third dimension) reads another (fourth), `bool[batch or 1, 1, length, length]`; None for all."""


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
    length = mask.shape[1]
    recent = within(length, window - 1, 0, mask.device) if window is not None and window < length else None
    if not restart_at_documents:
        return Reach(attended=recent)
    documents = PackedDocuments(~mask)
    attended = documents.attended if recent is None else documents.attended & recent
    return Reach(documents.positions, attended)
