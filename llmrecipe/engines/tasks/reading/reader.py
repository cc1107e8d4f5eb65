"""What is common to all tasks' files: examples out of them, with everything that is wrong said at once."""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from llmrecipe.engines.tasks.examples import Example
from llmrecipe.errors import StageError
from llmrecipe.recipe.kinds import Task

T = TypeVar("T", bound=Task)


class Reader(ABC, Generic[T]):
    """Reads the files of a task."""

    tag: ClassVar[str]
    """That of the task."""

    def __init__(self, task: T) -> None:
        """For files as this task says that they are."""
        self.task = task

    @abstractmethod
    def read(self, path: Path, name: str) -> list[list[Example]]:
        """The examples of a file, in groups that belong together, such as the sentences of a document.

        Args:
            path: the file.
            name: what it is called in messages.

        Raises:
            StageError: with everything that is wrong with it.
        """

    @abstractmethod
    def asked(self, example: Example) -> Any:
        """What a model is asked by an example: two of which it is the same are the same question."""

    def labels_of(self, splits: Mapping[str, Sequence[Example]]) -> list[str]:
        """What is predicted, in the order of a model's outputs; nothing where that is no label.

        Raises:
            StageError: a split has a label that no training example has, or there is nothing to tell apart.
        """
        return []

    def counted(self, rows: Sequence[Example]) -> dict[str, int]:
        """How often each label occurs, or what else there is to count."""
        return {}


def known_labels(
    name: str, splits: Mapping[str, Sequence[Example]], labels: Callable[[Example], set[str]]
) -> list[str]:
    """The labels of the training examples, sorted.

    Raises:
        StageError: another split has more.
    """
    counts = {split: Counter(label for row in rows for label in labels(row)) for split, rows in splits.items()}
    strange = [
        f"{name}.{split}: {label!r} is the label of {count:,} examples, and of none that is learned from; correct "
        "it, or add such examples to train"
        for split, found in counts.items()
        for label, count in sorted(found.items())
        if label not in counts["train"]
    ]
    if strange:
        raise StageError("\n".join(strange))
    return sorted(counts["train"])
