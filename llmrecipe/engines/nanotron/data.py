"""Batches for nanotron: which sequences a rank reads at a step, and what it hands to its part of the pipeline."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol, cast

import attrs
import numpy as np
import torch
from nanotron import distributed as dist
from nanotron.parallel.pipeline_parallel.tensor_pointer import TensorPointer

from llmrecipe.engines.nanotron.job import Job
from llmrecipe.engines.tokens.fill_in_the_middle import Rearrangement
from llmrecipe.engines.tokens.mixture import TokenMixture
from llmrecipe.recipe.objective import CausalLM

MicroBatch = dict[str, Any]
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

    @property
    def reads_input(self) -> bool:
        """Whether this rank reads tokens."""
        return self.pipeline_rank == self.input_rank

    @property
    def reads_labels(self) -> bool:
        """Whether this rank reads labels."""
        return self.pipeline_rank == self.output_rank

    def pointers(self, inputs: Iterable[str], labels: Iterable[str]) -> MicroBatch:
        """Where in the pipeline these tensors are, for ranks that don't read them."""
        at_input, at_output = TensorPointer(self.input_rank), TensorPointer(self.output_rank)
        return dict.fromkeys(inputs, at_input) | dict.fromkeys(labels, at_output)


class Reader(Protocol):
    """Makes micro-batches of windows, for one objective, as a function `reader(job, split, shard)` of its module."""

    @property
    def files(self) -> TokenMixture:
        """A split of the corpora."""

    @property
    def shard(self) -> Shard:
        """This rank's part."""

    @property
    def sequence_length(self) -> int:
        """Tokens that the model reads at once."""

    def read(self, samples: Sequence[tuple[int, int]]) -> MicroBatch:
        """Samples, each a window and its epoch, as the network reads them."""

    def scale(self, batches: list[MicroBatch], group: dist.ProcessGroup | None) -> list[MicroBatch]:
        """The micro-batches of a step, ready for their losses to be averaged over all those of the group's ranks.

        They are on the device, and no number of them may be looked at here, which would keep a GPU waiting.
        """

    def num_labels(self, batch: MicroBatch) -> int:
        """Tokens to be predicted, on a rank that reads labels."""


@attrs.frozen(kw_only=True, eq=False)
class CausalReader:
    """Reads sequences of which every token is to be predicted from those before it."""

    files: TokenMixture
    """A split of the corpora."""

    shard: Shard
    """This rank's part."""

    sequence_length: int
    """Tokens that the model reads at once."""

    rearrangement: Rearrangement | None = None
    """What rearranges documents; None leaves all in their order."""

    def read(self, samples: Sequence[tuple[int, int]]) -> MicroBatch:
        """Samples, each a window and its epoch; a rank holds only what its part of the pipeline reads.

        `input_ids` and `label_ids` are `[samples, sequence_length]`. `input_mask` is true where a token continues
        the document of the one before it: this is what nanotron passes along the pipeline for attention to read. Every
        token counts.
        """
        shape = (len(samples), self.sequence_length)
        batch = self.shard.pointers(("input_ids", "input_mask"), ("label_ids", "label_mask"))
        if not (self.shard.reads_input or self.shard.reads_labels):
            return batch
        windows = [self._window(window, epoch) for window, epoch in samples]
        # Straight from the mapped file into the batch, which widens the numbers as it copies.
        if self.shard.reads_input:
            inputs = np.empty(shape, dtype=np.int64)
            np.stack([window[:-1] for window in windows], out=inputs, casting="safe")
            batch |= {"input_ids": torch.from_numpy(inputs)}
            batch |= {"input_mask": batch["input_ids"] != self.files.end_of_text_id}
        if self.shard.reads_labels:
            labels = np.empty(shape, dtype=np.int64)
            np.stack([window[1:] for window in windows], out=labels, casting="safe")
            batch |= {"label_ids": torch.from_numpy(labels), "label_mask": torch.ones(shape, dtype=torch.bool)}
        return batch

    def _window(self, window: int, epoch: int) -> np.ndarray:
        tokens = self.files.window(window, self.sequence_length)
        return tokens if self.rearrangement is None else self.rearrangement.of(tokens, epoch=epoch, window=window)

    def scale(self, batches: list[MicroBatch], group: dist.ProcessGroup | None) -> list[MicroBatch]:
        """The micro-batches as they are: each has as many labels as any other, and the loss is their mean."""
        return batches

    def num_labels(self, batch: MicroBatch) -> int:
        """Tokens to be predicted, on a rank that reads labels."""
        return batch["label_ids"].numel()


def reader(job: Job, split: str, shard: Shard) -> CausalReader:
    """What reads a split for `CausalLM`."""
    files, options = job.open_tokens(split), cast(CausalLM, job.section.objective).fill_in_the_middle
    rearrangement = None
    # Held-out text is never rearranged.
    if options is not None and split == "train":
        rearrangement = Rearrangement(
            options=options,
            token_ids=files.special_ids(options.tokens),
            end_of_text_id=files.end_of_text_id,
            seed=job.section.training.seed,
        )
    return CausalReader(files=files, shard=shard, sequence_length=job.sequence_length, rearrangement=rearrangement)


class TrainingBatches(Iterator[MicroBatch]):
    """Micro-batches without end.

    A step reads `global_batch_size` consecutive samples; its micro-batches go round the data-parallel ranks.
    """

    def __init__(self, reader: Reader, *, seed: int, consumed: int) -> None:
        """Start at the sample that follows the `consumed` ones."""
        self._reader = reader
        self._order = reader.files.order(reader.sequence_length, seed)
        self._first = consumed + reader.shard.data_rank * reader.shard.micro_batch_size
        self._digest = 0

    def __next__(self) -> MicroBatch:
        shard = self._reader.shard
        numbers = range(self._first, self._first + shard.micro_batch_size)
        self._first += shard.data_size * shard.micro_batch_size
        samples = self._order.samples(numbers.start, len(numbers))
        for number, (window, _) in zip(numbers, samples, strict=True):
            key = hashlib.blake2b(f"{number}, {window}".encode(), digest_size=8).digest()
            self._digest += int.from_bytes(key, signed=True)
        return self._reader.read(samples) | {"samples": numbers}

    def take_digest(self) -> int:
        """Which window each sample read, since the last call, as a number in 64 bits, signed.

        The numbers of all data-parallel ranks, added up in 64 bits, are those of one rank that read it all.
        """
        digest, self._digest = self._digest, 0
        return (digest + 2**63) % 2**64 - 2**63


def heldout_batches(reader: Reader, *, sequences: int) -> Iterator[MicroBatch]:
    """This rank's share of the first `sequences` windows in the mixture's proportions, or of as many as there are.

    A corpus with few is read again where its share is larger. The last micro-batch may be smaller.
    """
    files, shard = reader.files, reader.shard
    count = min(sequences, files.num_windows(reader.sequence_length))
    windows = files.order(reader.sequence_length, seed=0).unshuffled(count)
    stride = shard.data_size * shard.micro_batch_size
    for first in range(shard.data_rank * shard.micro_batch_size, count, stride):
        samples = [(window, 0) for window in windows[first : first + shard.micro_batch_size]]
        yield reader.read(samples) | {"samples": range(0)}
