"""What a student and its teacher read at a step, and where their predictions are compared."""

from collections.abc import Iterator, Sequence
from typing import cast

import attrs
import numpy as np
import torch

from llmrecipe.engines.finetuning.job import Job
from llmrecipe.engines.tokens.fill_in_the_middle import Rearrangement
from llmrecipe.engines.tokens.masking import MaskedVocabulary, mask
from llmrecipe.engines.tokens.mixture import TokenMixture
from llmrecipe.engines.tokens.packing import PackedDocuments
from llmrecipe.recipe.kinds import Objective
from llmrecipe.recipe.objective import CausalLM, MaskedLM, MultiMaskLM

UNLABELLED = -100
"""In the place of a label where nothing is predicted, as in transformers."""

Batch = dict[str, torch.Tensor]
"""`input_ids` and `labels` `int64[sequences, length]`; `position_ids` too where documents are read by themselves.

A label is what is predicted at its own place: that of a decoder is the next token."""


@attrs.frozen(kw_only=True, eq=False)
class Reader:
    """Reads sequences of a split for an objective."""

    files: TokenMixture
    """A split of the corpora."""

    objective: Objective
    """What is predicted."""

    seed: int
    """Decides what is masked, and the order of the sequences."""

    vocabulary: MaskedVocabulary | None
    """What masks need to know of the tokenizer; None where nothing is masked."""

    rearrangement: Rearrangement | None
    """What rearranges documents; None leaves all in their order."""

    @classmethod
    def of(cls, job: Job, split: str) -> "Reader":
        """What reads a split for a job; held-out text is never rearranged."""
        files, objective, seed = job.open_tokens(split), job.objective, job.training.seed
        options = objective.fill_in_the_middle if isinstance(objective, CausalLM) and split == "train" else None
        rearrangement = None
        if options is not None:
            rearrangement = Rearrangement(
                options=options,
                token_ids=files.special_ids(options.tokens),
                end_of_text_id=files.end_of_text_id,
                seed=seed,
            )
        vocabulary = files.masked_vocabulary if objective.is_masked else None
        return cls(files=files, objective=objective, seed=seed, vocabulary=vocabulary, rearrangement=rearrangement)

    def read(self, samples: Sequence[tuple[int, int]]) -> Batch:
        """Samples, each a window and its epoch."""
        rows = [self._row(window, epoch) for window, epoch in samples]
        inputs, labels = (torch.from_numpy(np.stack(part)) for part in zip(*rows, strict=True))
        batch = {"input_ids": inputs, "labels": labels}
        if self.objective.restart_at_documents:
            # transformers keeps attention within what positions say is one document.
            batch["position_ids"] = PackedDocuments(inputs == self.files.end_of_text_id).positions
        return batch

    def _row(self, window: int, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """What is read, and what is to be predicted, `int64[length]` each."""
        length = self.objective.sequence_length
        tokens = self.files.window(window, length).astype(np.int64)
        if self.vocabulary is None:
            if self.rearrangement is not None:
                tokens = self.rearrangement.of(tokens, epoch=epoch, window=window)
            return tokens[:-1], tokens[1:]
        objective = cast(MaskedLM | MultiMaskLM, self.objective)
        masked = mask(tokens[:length], objective, self.vocabulary, seed=self.seed, epoch=epoch, window=window)
        labels = np.full(length, UNLABELLED)
        labels[masked.positions] = tokens[masked.positions]
        return masked.input_ids, labels


def training_batches(reader: Reader, job: Job, rank: int) -> Iterator[Batch]:
    """A rank's micro-batches without end, from the step on that the run goes on from.

    A step reads `global_batch_size` consecutive samples, the same for every layout; its micro-batches go round the
    ranks.
    """
    size, ranks = job.parallelism.micro_batch_size, job.parallelism.data
    order = reader.files.order(job.sequence_length, job.training.seed)
    first = job.resumed * job.training.global_batch_size + rank * size
    while True:
        yield reader.read(order.samples(first, size))
        first += ranks * size


def heldout_batches(reader: Reader, job: Job, rank: int) -> Iterator[Batch]:
    """A rank's share of the first held-out sequences, in the mixture's proportions; the last may be smaller."""
    size, ranks = job.parallelism.micro_batch_size, job.parallelism.data
    count = _heldout_count(reader, job)
    windows = reader.files.order(job.sequence_length, seed=0).unshuffled(count)
    for first in range(rank * size, count, ranks * size):
        yield reader.read([(window, 0) for window in windows[first : first + size]])


def heldout_rounds(reader: Reader, job: Job) -> int:
    """How many micro-batches of held-out sequences the first rank reads, and no other more."""
    return -(-_heldout_count(reader, job) // (job.parallelism.micro_batch_size * job.parallelism.data))


def _heldout_count(reader: Reader, job: Job) -> int:
    return min(job.training.validation_sequences, reader.files.num_windows(job.sequence_length))
