"""Files of sorted hashes: what a text is looked up in."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from datatrove.data import DocumentsPipeline
from datatrove.pipeline.base import PipelineStep


class MergeHashes(PipelineStep):
    """Makes one file of those that tasks have written."""

    type = "HASHES"
    name = "hashes of all tasks"

    def __init__(self, parts: Path, file: Path) -> None:
        """`parts` is the folder of the tasks' files."""
        super().__init__()
        self.parts, self.file = parts, file

    def run(self, data: DocumentsPipeline = None, rank: int = 0, world_size: int = 1) -> None:
        """Write the file."""
        save(self.file, distinct(np.load(file) for file in sorted(self.parts.glob("*.npy"))))


def distinct(parts: Iterable[np.ndarray]) -> np.ndarray:
    """The hashes of all parts, each once, sorted; `uint64`."""
    return np.unique(np.concatenate([np.array([], np.uint64), *parts]))


def save(file: Path, hashes: np.ndarray) -> None:
    """Write a file of hashes that are sorted."""
    file.parent.mkdir(parents=True, exist_ok=True)
    np.save(file, hashes)


def load(file: Path) -> np.ndarray:
    """The hashes of a file, left on disk."""
    return np.load(file, mmap_mode="r")


def places(hashes: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Which of `hashes` are in `index`, in ascending order."""
    if not len(index):
        return np.array([], np.int64)
    # One that is larger than all is compared with the last.
    nearest = np.minimum(np.searchsorted(index, hashes), len(index) - 1)
    return np.flatnonzero(index[nearest] == hashes)
