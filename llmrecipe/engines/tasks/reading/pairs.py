"""Tables of queries with what they look for."""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from llmrecipe.engines.tasks import files
from llmrecipe.engines.tasks.examples import Example
from llmrecipe.engines.tasks.files import Faults
from llmrecipe.engines.tasks.reading.reader import Reader
from llmrecipe.errors import StageError
from llmrecipe.recipe.task import Embeddings

log = logging.getLogger(__name__)


class PairsReader(Reader[Embeddings]):
    """A query with its positive, and a negative where one is named."""

    tag: ClassVar[str] = Embeddings.tag

    def asked(self, example: Example) -> Any:
        """A query."""
        return example["query"]

    def read(self, path: Path, name: str) -> list[list[Example]]:
        """The pairs; those of one query stay together, so that all that is right for it is known where it is asked."""
        task, faults = self.task, Faults(name)
        fields = {"query": task.query_field, "positive": task.positive_field, "negative": task.negative_field}
        found: dict[str, list[Example]] = {}
        for number, row in files.rows(path, name, faults):
            example: Example = {"id": str(number)}
            for key, field in fields.items():
                if field is not None:
                    example[key] = files.text(row, field, number, faults)
            if example["positive"] and example["positive"] == example.get("negative"):
                faults.add(number, f"{task.negative_field!r} is {task.positive_field!r} again; give another text")
            found.setdefault(example["query"], []).append(example)
        faults.refuse()
        if not found:
            raise StageError(f"{name}: holds no pair")
        return list(found.values())

    def labels_of(self, splits: Mapping[str, Sequence[Example]]) -> list[str]:
        """None; pairs that a split has more than once are warned of.

        Raises:
            StageError: all pairs of a split have one positive.
        """
        for split, rows in splits.items():
            positives = {row["positive"] for row in rows}
            if len(positives) == 1 and not (split == "train" and self.task.negative_field):
                raise StageError(
                    f"{self.task.name}.{split}: every pair has the positive {min(positives)[:80]!r}, and there is "
                    "nothing to tell apart; add pairs with others"
                )
            again = self.counted(rows)["repeated"]
            if again:
                log.warning(
                    "%s of %s %s pairs are there already, and count as often as they are there",
                    f"{again:,}",
                    f"{len(rows):,}",
                    split,
                )
        return []

    def counted(self, rows: Sequence[Example]) -> dict[str, int]:
        """How many queries and positives there are, and how often a pair is there again."""
        pairs = Counter((row["query"], row["positive"], row.get("negative")) for row in rows)
        return {
            "queries": len({row["query"] for row in rows}),
            "positives": len({row["positive"] for row in rows}),
            "repeated": len(rows) - len(pairs),
        }
