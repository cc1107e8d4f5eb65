"""Examples of a task: an artifact of three splits, JSON lines each."""

import json
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from llmrecipe import artifacts, cards
from llmrecipe.cards import ExamplesCard
from llmrecipe.errors import StageError
from llmrecipe.recipe.kinds import SPLITS, Task
from llmrecipe.recipe.quantity import Fraction

KIND = "examples"
"""Of the artifact."""

Example = dict[str, Any]
"""`id` (its split and line) and what the task has of it: `words` and `tags`, `text` and `label` …"""


def write(directory: Path, splits: Mapping[str, Sequence[Example]], task: str, labels: Sequence[str]) -> Path:
    """Write an artifact of these splits."""
    directory.mkdir(parents=True, exist_ok=True)
    for split, rows in splits.items():
        artifacts.write_jsonl(directory / f"{split}.jsonl", rows)
    counts = {split: len(rows) for split, rows in splits.items()}
    cards.write(directory, ExamplesCard(task=task, labels=tuple(labels), examples=counts))
    artifacts.seal(directory, KIND)
    return directory


def read(directory: Path, split: str) -> list[Example]:
    """The examples of a split."""
    with open(directory / f"{split}.jsonl", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def card_of(directory: Path) -> ExamplesCard:
    """The card of a whole artifact.

    Raises:
        StageError: it is none.
    """
    artifacts.open_artifact(directory, KIND)
    return cards.read(directory, ExamplesCard)


def divided(task: Task, found: Mapping[str, list[list[Example]]]) -> dict[str, list[Example]]:
    """The three splits, of which shares are taken from the training examples.

    Args:
        task: says which are shares, and has the seed.
        found: by the splits that have files, examples in groups that stay together, such as those of a document.

    Raises:
        StageError: too few are left for a split.
    """
    # Named by its split, since the name of a file is nothing of what is in it.
    named = {
        split: [[example | {"id": f"{split}:{example['id']}"} for example in group] for group in groups]
        for split, groups in found.items()
    }
    groups, splits = named["train"], {split: _flat(named[split]) for split in named}
    drawn = list(range(len(groups)))
    random.Random(task.seed).shuffle(drawn)
    for split in SPLITS[1:]:
        share = getattr(task, split)
        if isinstance(share, Fraction):
            count = round(share.of_total * len(groups))
            taken, drawn = sorted(drawn[:count]), drawn[count:]
            splits[split] = _flat([groups[index] for index in taken])
    splits["train"] = _flat([groups[index] for index in sorted(drawn)])
    for split in SPLITS:
        if not splits[split]:
            raise StageError(
                f"{task.name}.{split}: no example of {len(groups)} is left for it; give it a file of its own, or a "
                "larger share"
            )
    return {split: splits[split] for split in SPLITS}


def _flat(groups: list[list[Example]]) -> list[Example]:
    return [example for group in groups for example in group]


def in_training_too(splits: Mapping[str, Sequence[Example]], asked: Callable[[Example], Any]) -> dict[str, int]:
    """By split, of how many of its examples what they ask is asked by a training example, too."""
    known = {json.dumps(asked(example)) for example in splits["train"]}
    return {split: sum(json.dumps(asked(each)) in known for each in splits[split]) for split in SPLITS[1:]}
