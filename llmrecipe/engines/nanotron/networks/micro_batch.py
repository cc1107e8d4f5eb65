"""What a network is reading."""

from collections.abc import Sequence

import torch
from nanotron.parallel.pipeline_parallel.tensor_pointer import TensorPointer

from llmrecipe.engines.tokens.packing import PackedDocuments

Placed = torch.Tensor | TensorPointer
"""A tensor, or where in the pipeline it is."""


class MicroBatchInFlight:
    """What the network is reading; nanotron's blocks pass on tensors alone."""

    samples: Sequence[int] = ()

    _mask: torch.Tensor | None = None

    def documents(self, mask: torch.Tensor) -> PackedDocuments:
        """Those of a mask as `data.CausalReader` makes it, found once for all layers that hand it on."""
        if mask is not self._mask:
            self._mask, self._documents = mask, PackedDocuments(~mask)
        return self._documents
