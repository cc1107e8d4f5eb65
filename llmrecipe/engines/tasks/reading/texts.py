"""Tables of texts with their labels, or their scores."""

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from llmrecipe.engines.tasks import files
from llmrecipe.engines.tasks.examples import Example
from llmrecipe.engines.tasks.files import Faults
from llmrecipe.engines.tasks.reading.reader import Reader, known_labels
from llmrecipe.errors import StageError
from llmrecipe.recipe.task import Classification


class TextsReader(Reader[Classification]):
    """A text, or two, with a label, several, or a score."""

    tag: ClassVar[str] = Classification.tag

    def asked(self, example: Example) -> Any:
        """A text, and the other one if there is one."""
        return [example["text"], example.get("second_text")]

    def read(self, path: Path, name: str) -> list[list[Example]]:
        """The texts, each by itself."""
        task, faults, found = self.task, Faults(name), []
        fields = {"text": task.text_field, "second_text": task.second_text_field}
        for number, row in files.rows(path, name, faults):
            example: Example = {"id": str(number)}
            for key, field in fields.items():
                if field is not None:
                    example[key] = files.text(row, field, number, faults)
            answer = files.value(row, task.label_field, number, faults)
            if answer is not None:
                example |= _answer(task, answer, number, faults)
            found.append([example])
        faults.refuse()
        if not found:
            raise StageError(f"{name}: holds no text")
        return found

    def labels_of(self, splits: Mapping[str, Sequence[Example]]) -> list[str]:
        """The labels of the training examples; none of a score."""
        if not self.task.has_classes:
            return []
        found = known_labels(self.task.name, splits, lambda row: set(_labels(row)))
        if len(found) < (1 if self.task.answer == "several" else 2):
            raise StageError(
                f"{self.task.name}.train: every text has the label {found[0]!r}, and there is nothing to tell apart"
                if found
                else f"{self.task.name}.train: no text has a label"
            )
        return found

    def counted(self, rows: Sequence[Example]) -> dict[str, int]:
        """How many texts have each label."""
        if not self.task.has_classes:
            return {}
        return dict(sorted(Counter(label for row in rows for label in _labels(row)).items()))


def _labels(example: Example) -> list[str]:
    return list(example["labels"]) if "labels" in example else [example["label"]]


def _answer(task: Classification, given: Any, line: int, faults: Faults) -> Example:
    if task.answer == "score":
        try:
            score = float(given)
        except (TypeError, ValueError, OverflowError):
            score = math.nan
        if not math.isfinite(score):
            faults.add(line, f"{task.label_field!r} must be a number, got {given!r}")
        return {"score": score}
    if task.answer == "several":
        several = [each for each in given.split("|") if each.strip()] if isinstance(given, str) else given
        if not isinstance(several, list):
            faults.add(line, f"{task.label_field!r} must be a list of labels, got {given!r}")
            return {}
        return {"labels": sorted({_label(each, task.label_field, line, faults) for each in several})}
    if isinstance(given, list | dict):
        faults.add(line, f"{task.label_field!r} must be one label, got {given!r}; use answer='several' for lists")
        return {}
    return {"label": _label(given, task.label_field, line, faults)}


def _label(given: Any, field: str, line: int, faults: Faults) -> str:
    """A label as a text, also where it is a number, or true or false."""
    if not isinstance(given, str | int | float):
        faults.add(line, f"{field!r} must be a label, got {given!r}")
    label = given.strip() if isinstance(given, str) else json.dumps(given)
    if not label:
        faults.add(line, f"{field!r} is empty; give every text its label")
    return label
