"""Batches for nanotron: which sequences a rank reads at a step, and what it hands to its part of the pipeline."""

import hashlib
from collections.abc import Iterator

import attrs
import numpy as np
import torch
from nanotron.parallel.pipeline_parallel.tensor_pointer import TensorPointer

from llmrecipe.engines.token_mixture import TokenMixture

MicroBatch = dict[str, torch.Tensor | TensorPointer | range]
"""The network's arguments: its tensors, or where in the pipeline they are, and the numbers of the samples."""


@attrs.frozen(kw_only=True)
class Shard:
    """A rank's part of every batch."""

    data_rank: int
    """Its place among the data-parallel ranks."""

    data_size: int
    """Number of data-parallel ranks."""

    micro_batch_size: int
    """Sequences of a micro-batch."""

    pipeline_rank: int
    """Its place in the pipeline."""

    input_rank: int
    """The place in the pipeline that reads tokens."""

    output_rank: int
    """The place in the pipeline that reads labels."""


class TrainingBatches(Iterator[MicroBatch]):
    """Micro-batches without end.

    A step reads `global_batch_size` consecutive samples; its micro-batches go round the data-parallel ranks.
    """

    def __init__(self, files: TokenMixture, shard: Shard, *, sequence_length: int, seed: int, consumed: int) -> None:
        """Start at the sample that follows the `consumed` ones."""
        self._files = files
        self._shard = shard
        self._sequence_length = sequence_length
        self._order = files.order(sequence_length, seed)
        self._first = consumed + shard.data_rank * shard.micro_batch_size
        self._digest = 0

    def __next__(self) -> MicroBatch:
        shard = self._shard
        samples = range(self._first, self._first + shard.micro_batch_size)
        self._first += shard.data_size * shard.micro_batch_size
        windows = self._order.windows(samples.start, len(samples))
        for sample, window in zip(samples, windows, strict=True):
            key = hashlib.blake2b(f"{sample}, {window}".encode(), digest_size=8).digest()
            self._digest += int.from_bytes(key, signed=True)
        return micro_batch(self._files, windows, shard, self._sequence_length) | {"samples": samples}

    def take_digest(self) -> int:
        """Which window each sample read, since the last call, as a number in 64 bits, signed.

        The numbers of all data-parallel ranks, added up in 64 bits, are those of one rank that read it all.
        """
        digest, self._digest = self._digest, 0
        return (digest + 2**63) % 2**64 - 2**63


def heldout_batches(files: TokenMixture, shard: Shard, *, sequence_length: int, sequences: int) -> Iterator[MicroBatch]:
    """This rank's share of the first `sequences` windows in the mixture's proportions, or of as many as there are.

    A corpus with few is read again where its share is larger. The last micro-batch may be smaller.
    """
    count = min(sequences, files.num_windows(sequence_length))
    windows = files.order(sequence_length, seed=0).unshuffled(count)
    stride = shard.data_size * shard.micro_batch_size
    for first in range(shard.data_rank * shard.micro_batch_size, count, stride):
        yield micro_batch(files, windows[first : first + shard.micro_batch_size], shard, sequence_length)


def micro_batch(files: TokenMixture, ids: list[int], shard: Shard, sequence_length: int) -> MicroBatch:
    """The windows `ids` as `[len(ids), sequence_length]`; a rank holds only what its part of the pipeline reads.

    `input_mask` is true where a token goes on with the document of the one before it: this is what nanotron passes
    along the pipeline for attention to read. Every token counts.
    """
    reads_input = shard.pipeline_rank == shard.input_rank
    reads_labels = shard.pipeline_rank == shard.output_rank
    batch: MicroBatch = {
        "input_ids": TensorPointer(shard.input_rank),
        "input_mask": TensorPointer(shard.input_rank),
        "label_ids": TensorPointer(shard.output_rank),
        "label_mask": TensorPointer(shard.output_rank),
        "samples": range(0),
    }
    if not (reads_input or reads_labels):
        return batch
    windows = np.empty((len(ids), sequence_length + 1), dtype=np.int64)
    for row, index in enumerate(ids):
        windows[row] = files.window(index, sequence_length)
    tokens = torch.from_numpy(windows)
    if reads_input:
        inputs = tokens[:, :-1].contiguous()
        batch |= {"input_ids": inputs, "input_mask": inputs != files.end_of_text_id}
    if reads_labels:
        labels = tokens[:, 1:].contiguous()
        batch |= {"label_ids": labels, "label_mask": torch.ones_like(labels, dtype=torch.bool)}
    return batch
