"""What a student and its teacher read at a step, and where their predictions are compared."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import cast

import attrs
import numpy as np
import torch

from llmrecipe.engines.finetuning.distillation.job import Job
from llmrecipe.engines.finetuning.distillation.predictions import StoredPredictions, sequences_a_file
from llmrecipe.engines.finetuning.trainer import UNLABELLED, Batch
from llmrecipe.engines.tokens.fill_in_the_middle import Rearrangement
from llmrecipe.engines.tokens.masking import MaskedVocabulary, mask
from llmrecipe.engines.tokens.mixture import TokenMixture
from llmrecipe.engines.tokens.packing import PackedDocuments
from llmrecipe.recipe.kinds import Objective
from llmrecipe.recipe.objective import CausalLM, MaskedLM, MultiMaskLM

Sample = tuple[int, int]
"""A window and its epoch."""


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

    predictions: StoredPredictions | None = None
    """What the teacher predicts; None where it is asked itself."""

    @classmethod
    def of(cls, job: Job, split: str) -> "Reader":
        """What reads a split for a job."""
        reader = cls.for_objective(job.open_tokens(split), split, job.objective, job.training.seed)
        stored = job.section.teacher_logits
        if stored is None or job.predictions is None:
            return reader
        in_each = sequences_a_file(job.sequence_length, stored.top_k)
        return attrs.evolve(reader, predictions=StoredPredictions(Path(job.predictions) / split, in_each))

    @classmethod
    def for_objective(cls, files: TokenMixture, split: str, objective: Objective, seed: int) -> "Reader":
        """What reads the files of a split; held-out text is never rearranged."""
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

    def training_samples(self, first: int, count: int) -> list[Sample]:
        """The samples of a run, in its order."""
        return self.files.order(self.objective.sequence_length, self.seed).samples(first, count)

    def heldout_samples(self, count: int) -> list[Sample]:
        """The first held-out sequences, in the mixture's proportions; fewer if there aren't as many."""
        length = self.objective.sequence_length
        count = min(count, self.files.num_windows(length))
        return [(window, 0) for window in self.files.order(length, seed=0).unshuffled(count)]

    def predicted(self, first: int, count: int) -> Batch:
        """What the teacher predicts for consecutive samples, if that is stored."""
        return {} if self.predictions is None else self.predictions.read(first, count)

    def read(self, samples: Sequence[Sample]) -> Batch:
        """Samples, each a window and its epoch: `input_ids` and `labels` `int64[sequences, length]`; `position_ids` too
        where documents are read by themselves.

        A label is what is predicted at its own place: that of a decoder is the next token.
        """
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
    first = job.resumed * job.training.global_batch_size + rank * size
    while True:
        yield reader.read(reader.training_samples(first, size)) | reader.predicted(first, size)
        first += ranks * size


def heldout_batches(reader: Reader, job: Job, rank: int) -> Iterator[tuple[Batch, bool]]:
    """A rank's share of the first held-out sequences, in the mixture's proportions, and whether it counts.

    Ranks that share a model compute together, so all have as many micro-batches: one that has nothing left gets the
    first again, which doesn't count. The last that counts may be smaller.
    """
    size, ranks = job.parallelism.micro_batch_size, job.parallelism.data
    samples = reader.heldout_samples(job.training.validation_sequences)
    for start in range(0, len(samples), ranks * size):
        mine = start + rank * size
        counts = mine < len(samples)
        first = mine if counts else 0
        part = samples[first : first + size]
        yield reader.read(part) | reader.predicted(first, len(part)), counts
