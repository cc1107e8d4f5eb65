"""Batches of masked sequences, and how much each of their labels counts."""

from collections.abc import Sequence
from typing import cast

import attrs
import numpy as np
import torch
from nanotron import distributed as dist

from llmrecipe.engines.nanotron.data import MicroBatch, Shard
from llmrecipe.engines.nanotron.job import Job
from llmrecipe.engines.tokens.masking import MaskedVocabulary, mask
from llmrecipe.engines.tokens.mixture import TokenMixture
from llmrecipe.recipe.objective import MaskedLM, MultiMaskLM


@attrs.frozen(kw_only=True, eq=False)
class MaskedReader:
    """Reads sequences of which some tokens are masked and to be predicted."""

    files: TokenMixture
    """A split of the corpora."""

    shard: Shard
    """This rank's part."""

    objective: MaskedLM | MultiMaskLM
    """What is masked, and what is predicted."""

    seed: int
    """Decides what is masked."""

    vocabulary: MaskedVocabulary
    """What the masks need to know of the tokenizer."""

    tensor_parallel: int
    """Ranks that may share the labels, which are padded to a multiple of it."""

    @property
    def sequence_length(self) -> int:
        """Tokens that the model reads at once."""
        return self.objective.sequence_length

    def read(self, samples: Sequence[tuple[int, int]]) -> MicroBatch:
        """Samples, each a window and its epoch; a rank holds only what its part of the pipeline reads.

        `input_ids` are `[samples, sequence_length]`. `positions` `[labels]` are the places to predict from, as
        `place × samples + sample`; `label_ids` and `label_scales` `[1, labels]` are what is to be predicted there and
        how much it counts: the masked tokens, then the tokens before the spans (`is_context`), then padding.
        """
        batch = self.shard.pointers(
            ("input_ids", "input_mask"), ("positions", "is_context", "label_ids", "label_scales")
        )
        if not (self.shard.reads_input or self.shard.reads_labels):
            return batch
        length, count = self.sequence_length, len(samples)
        tokens = np.stack([self.files.window(window, length)[:length] for window, _ in samples]).astype(np.int64)
        masked = [
            mask(row, self.objective, self.vocabulary, seed=self.seed, epoch=epoch, window=window)
            for row, (window, epoch) in zip(tokens, samples, strict=True)
        ]
        if self.shard.reads_input:
            input_ids = torch.from_numpy(np.stack([sequence.input_ids for sequence in masked]))
            batch |= {"input_ids": input_ids, "input_mask": torch.ones_like(input_ids, dtype=torch.bool)}
        if self.shard.reads_labels:
            labels = [(sequence.positions, sequence.positions) for sequence in masked]
            before = [
                self._before_spans(row, sequence.first_positions) for row, sequence in zip(tokens, masked, strict=True)
            ]
            places = [places * count + row for row, (places, _) in [*enumerate(labels), *enumerate(before)]]
            wanted = [tokens[row, there] for row, (_, there) in [*enumerate(labels), *enumerate(before)]]
            num_labels = sum(len(there) for there, _ in labels)
            positions, label_ids = np.concatenate(places), np.concatenate(wanted)
            padding = -len(positions) % self.tensor_parallel if len(positions) else self.tensor_parallel
            is_context = np.arange(len(positions) + padding) >= num_labels
            scales = (np.arange(len(positions) + padding) < len(positions)).astype(np.float32)
            batch |= {
                "positions": torch.from_numpy(np.pad(positions, (0, padding))),
                "is_context": torch.from_numpy(is_context),
                "label_ids": torch.from_numpy(np.pad(label_ids, (0, padding)))[None],
                "label_scales": torch.from_numpy(scales)[None],
            }
        return batch

    def _before_spans(self, tokens: np.ndarray, first: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Places to predict from and places of what is predicted: the tokens before the spans, unless special."""
        if self.objective.context_weight == 0:
            return first[:0], first[:0]
        first = first[~self.vocabulary.is_special[tokens[first - 1]]]
        return first, first - 1

    def scale(self, batches: list[MicroBatch], group: dist.ProcessGroup | None) -> list[MicroBatch]:
        """Give the labels the scales with which the losses of the micro-batches have the batch's loss as their mean.

        The number of labels differs from micro-batch to micro-batch; what counts is their number in the whole batch.

        Args:
            batches: this rank's micro-batches of a step, on the device.
            group: the ranks that read the others; None if these are all.
        """
        if not self.shard.reads_labels:
            return batches
        # Nothing of this is looked at here: on a GPU that would wait for all that it still has to do.
        means = torch.stack([self._counts(batch) for batch in batches]).sum(0) / len(batches)
        if group is not None and group.size() > 1:
            dist.all_reduce(means, op=dist.ReduceOp.AVG, group=group)
        labels, contexts = means.clamp(min=1e-9)
        of_label = (torch.ones_like(labels) / labels).float()
        of_context = (torch.full_like(contexts, self.objective.context_weight) / contexts).float()
        for batch in batches:
            scale = torch.where(batch["is_context"], of_context, of_label)
            batch["label_scales"] = batch["label_scales"] * scale
        return batches

    def _counts(self, batch: MicroBatch) -> torch.Tensor:
        """Masked tokens and tokens before spans, `float64[2]`."""
        counted, is_context = batch["label_scales"][0] > 0, batch["is_context"]
        return torch.stack([(counted & ~is_context).sum(), (counted & is_context).sum()]).double()

    def num_labels(self, batch: MicroBatch) -> int:
        """Masked tokens, on a rank that reads labels."""
        return int(self._counts(batch)[0])


def reader(job: Job, split: str, shard: Shard) -> MaskedReader:
    """What reads a split for `MaskedLM` and `MultiMaskLM`."""
    files = job.open_tokens(split)
    return MaskedReader(
        files=files,
        shard=shard,
        objective=cast(MaskedLM | MultiMaskLM, job.section.objective),
        seed=job.section.training.seed,
        vocabulary=files.masked_vocabulary,
        tensor_parallel=job.section.parallelism.tensor,
    )
