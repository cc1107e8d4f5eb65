"""The micro-batches of each step, where they are computed with."""

import attrs
import torch
from nanotron import distributed as dist

from llmrecipe.engines.nanotron.data import MicroBatch, Reader, TrainingBatches


@attrs.frozen(eq=False)
class StepBatches:
    """What one replica reads in a step, on the device."""

    micro_batches: list[MicroBatch]
    """As the network takes them."""

    digest: torch.Tensor
    """Which window each of its samples read: `TrainingBatches.take_digest`, `int64` scalar."""


class Feed:
    """Hands out the batches of one step after the other.

    A GPU is sent those of the next step while it computes: they are read into memory that it copies from by itself, in
    a stream of its own. They are read by the number of the step alone, so whatever was sent and not trained on is sent
    again by a resumed run.
    """

    def __init__(
        self, reader: Reader, batches: TrainingBatches, count: int, group: dist.ProcessGroup, device: str
    ) -> None:
        """`count` micro-batches a step, of this replica; `group` are the ranks that read those of the others."""
        self._reader, self._batches, self._count, self._group, self._device = reader, batches, count, group, device
        self._copying = torch.cuda.Stream() if device == "cuda" else None
        self._sent: StepBatches | None = None

    def send(self) -> None:
        """Send a GPU the next step's, all of whose work this step's are; on a CPU there is nothing to gain."""
        if self._copying is not None:
            with torch.cuda.stream(self._copying):
                self._sent = self._read()

    def take(self) -> StepBatches:
        """Those of the next step, their labels scaled over all replicas."""
        step, self._sent = self._sent or self._read(), None
        if self._copying is not None:
            current = torch.cuda.current_stream()
            current.wait_stream(self._copying)
            for tensor in (step.digest, *(value for batch in step.micro_batches for value in _tensors(batch).values())):
                # Else its memory would be given to a later copy as soon as nobody here knows it any more.
                tensor.record_stream(current)
        return attrs.evolve(step, micro_batches=self._reader.scale(step.micro_batches, self._group))

    def _read(self) -> StepBatches:
        batches = [placed(next(self._batches), self._device) for _ in range(self._count)]
        return StepBatches(batches, _moved(torch.tensor(self._batches.take_digest()), self._device))


def placed(batch: MicroBatch, device: str) -> MicroBatch:
    """A micro-batch on `device`; a GPU copies it as its stream comes to it, and this process goes on."""
    return batch | {name: _moved(value, device) for name, value in _tensors(batch).items()}


def _tensors(batch: MicroBatch) -> dict[str, torch.Tensor]:
    return {name: value for name, value in batch.items() if isinstance(value, torch.Tensor)}


def _moved(tensor: torch.Tensor, device: str) -> torch.Tensor:
    # Out of other memory the GPU copies while this process waits.
    return tensor if device == "cpu" else tensor.pin_memory().to(device, non_blocking=True)
