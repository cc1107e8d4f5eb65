"""What a teacher has predicted: the likeliest tokens of each place, and how likely all others are together."""

from collections.abc import Iterator
from pathlib import Path

import attrs
import torch
from safetensors import safe_open

_FILE_BYTES = 1 << 28
"""What a file holds about."""

_READ = ("ids", "log_probabilities")


def top(logits: torch.Tensor, top_k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The likeliest tokens, and the logarithms of their probabilities.

    Args:
        logits: `[tokens, vocabulary]`.
        top_k: how many; at most the vocabulary.

    Returns:
        Their ids, `int32[tokens, top_k]`, and what `classes` makes of them.
    """
    every = logits.float().log_softmax(-1)
    ids = every.topk(top_k).indices
    return ids.int(), classes(every, ids)


def classes(every: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """The log-probabilities of some tokens and, in one more column, of all others together where there are others.

    Args:
        every: log-probabilities `[tokens, vocabulary]`.
        ids: the tokens, `[tokens, top_k]`.
    """
    ids = ids.long()
    chosen = every.gather(-1, ids)
    if ids.shape[1] == every.shape[1]:
        return chosen
    # Not 1 minus the others, of which rounding would leave nothing where they are nearly all.
    return torch.cat([chosen, every.scatter(-1, ids, -torch.inf).logsumexp(-1, keepdim=True)], -1)


def sequences_a_file(sequence_length: int, top_k: int) -> int:
    """Sequences whose predictions are in one file."""
    return max(1, _FILE_BYTES // (sequence_length * (8 * top_k + 4)))


@attrs.frozen
class StoredPredictions:
    """The predictions for consecutive samples of a split, in files.

    Each has `ids` and `log_probabilities` as `top` gives them, of all predicted places of its sequences one after the
    other, and `starts`, where those of each sequence begin, and the last ones end: `int64[sequences + 1]`.
    """

    directory: Path
    """The files' folder."""

    sequences_a_file: int
    """Sequences in each file but the last."""

    def file(self, number: int) -> Path:
        """One of the files, from 0."""
        return self.directory / f"{number:05}.safetensors"

    def read(self, first: int, count: int) -> dict[str, torch.Tensor]:
        """`teacher_ids` and `teacher_log_probabilities` of all predicted places of so many samples from `first` on."""
        parts = list(self._parts(first, count))
        return {f"teacher_{name}": torch.cat([part[name] for part in parts]) for name in _READ}

    def _parts(self, first: int, count: int) -> Iterator[dict[str, torch.Tensor]]:
        while count:
            number, within = divmod(first, self.sequences_a_file)
            taken = min(count, self.sequences_a_file - within)
            with safe_open(self.file(number), "pt") as file:
                starts = file.get_tensor("starts")
                start, stop = int(starts[within]), int(starts[within + taken])
                yield {name: file.get_slice(name)[start:stop] for name in _READ}
            first, count = first + taken, count - taken
