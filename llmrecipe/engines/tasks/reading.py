"""Files of examples to examples, with everything that is wrong with them said at once."""

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import singledispatch
from pathlib import Path
from typing import Any

from llmrecipe.engines.tasks import files, tags
from llmrecipe.engines.tasks.examples import Example
from llmrecipe.engines.tasks.files import Faults
from llmrecipe.errors import StageError
from llmrecipe.recipe.kinds import Task
from llmrecipe.recipe.task import Classification, NamedEntities

_DOCUMENT = "-DOCSTART-"


@singledispatch
def read(task: Task, path: Path, name: str) -> list[list[Example]]:
    """The examples of a file, in groups that belong together, such as the sentences of a document.

    Args:
        task: says what is in it.
        path: the file.
        name: what it is called in messages.

    Raises:
        StageError: with everything that is wrong with it.
    """
    raise StageError(f"{name}: nothing reads examples of {type(task).__name__}")


@read.register
def _(task: NamedEntities, path: Path, name: str) -> list[list[Example]]:
    faults = Faults(name)
    found = _json_sentences(task, path, name, faults) if path.suffix == ".jsonl" else _conll(path, name, faults)
    groups = [[_checked(each, faults) for each in group] for group in found]
    faults.refuse()
    groups = [group for group in groups if group]
    if not groups:
        raise StageError(f"{name}: holds no sentence")
    return groups


def _conll(path: Path, name: str, faults: Faults) -> list[list[Example]]:
    """Sentences by document; where none is marked, each is one."""
    documents: list[list[Example]] = [[]]
    words: list[tuple[int, str, str]] = []
    are_marked = False

    def end_sentence() -> None:
        if words:
            line = words[0][0]
            sentence = {"id": line, "words": [word for _, word, _ in words], "tags": [tag for *_, tag in words]}
            documents[-1].append(sentence | ({"document": len(documents)} if are_marked else {}))
            words.clear()

    for number, line in files.lines(path, name):
        # A word may hold a space where tabs separate, and one of another kind where spaces do.
        columns = [each for each in line.split("\t" if "\t" in line else " ") if each.strip(" ")]
        if not columns:
            end_sentence()
        elif columns[0] == _DOCUMENT:
            end_sentence()
            are_marked = True
            documents.append([])
        elif len(columns) < 2:
            faults.add(number, f"{line!r} has no tag; a line holds a word and, in its last column, its tag")
        else:
            words.append((number, columns[0], columns[-1]))
    end_sentence()
    return documents if are_marked else [[sentence] for document in documents for sentence in document]


def _json_sentences(task: NamedEntities, path: Path, name: str, faults: Faults) -> list[list[Example]]:
    found = []
    for number, row in files.rows(path, name, faults):
        words, own = (_value(row, field, number, faults) for field in (task.words_field, task.tags_field))
        if words is None or own is None:
            continue
        if (
            not isinstance(words, list)
            or not all(isinstance(word, str) and word.strip() for word in words)
            or not words
        ):
            faults.add(number, f"{task.words_field!r} must be a list of words, none of them empty")
        elif not isinstance(own, list) or len(own) != len(words):
            count = len(own) if isinstance(own, list) else "no list of"
            faults.add(number, f"{len(words)} words in {task.words_field!r}, and {count} tags in {task.tags_field!r}")
        else:
            found.append([{"id": number, "words": words, "tags": own}])
    return found


def _checked(sentence: Example, faults: Faults) -> Example:
    """A sentence with its tags in IOB2."""
    wrong = [reason for reason in map(tags.fault, sentence["tags"]) if reason is not None]
    for reason in dict.fromkeys(wrong):
        faults.add(sentence["id"], f"the sentence that begins here: {reason}")
    made = sentence["tags"] if wrong else tags.iob2(sentence["tags"])
    return sentence | {"id": str(sentence["id"]), "tags": made}


@read.register
def _(task: Classification, path: Path, name: str) -> list[list[Example]]:
    faults, found = Faults(name), []
    for number, row in files.rows(path, name, faults):
        example: Example = {"id": str(number)}
        fields = {"text": task.text_field, "second_text": task.second_text_field}
        for key, field in fields.items():
            if field is None:
                continue
            text = _value(row, field, number, faults)
            if text is not None and not (isinstance(text, str) and text.strip()):
                faults.add(number, f"{field!r} must be a text that isn't empty, got {text!r}")
            example[key] = text
        answer = _value(row, task.label_field, number, faults)
        if answer is not None:
            example |= _answer(task, answer, number, faults)
        found.append([example])
    faults.refuse()
    if not found:
        raise StageError(f"{name}: holds no text")
    return found


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


def _value(row: Mapping[str, Any], field: str, line: int, faults: Faults) -> Any:
    """What a row has; None, and a fault, if it has it not."""
    if field not in row or row[field] is None:
        keys = ", ".join(map(repr, row))
        faults.add(line, f"has no {field!r}; it has {keys or 'nothing'}")
        return None
    return row[field]


@singledispatch
def labels_of(task: Task, splits: Mapping[str, Sequence[Example]]) -> list[str]:
    """What is predicted, in the order of a model's outputs.

    Raises:
        StageError: a split has a label that no training example has, or there is nothing to tell apart.
    """
    raise StageError(f"{task.name}: nothing knows the labels of {type(task).__name__}")


@labels_of.register
def _(task: NamedEntities, splits: Mapping[str, Sequence[Example]]) -> list[str]:
    kinds = _known(task, splits, lambda row: {entity.kind for entity in tags.entities(row["tags"])})
    for split, rows in splits.items():
        if all(tag == tags.OUTSIDE for row in rows for tag in row["tags"]):
            reason = (
                "there is nothing to learn" if split == "train" else "so it says nothing; use other or more sentences"
            )
            raise StageError(f"{task.name}.{split}: no word has another tag than {tags.OUTSIDE}, {reason}")
    return tags.labels_of(kinds)


@labels_of.register
def _(task: Classification, splits: Mapping[str, Sequence[Example]]) -> list[str]:
    if task.answer == "score":
        return []
    found = _known(task, splits, lambda row: set(row["labels"]) if "labels" in row else {row["label"]})
    if len(found) < (1 if task.answer == "several" else 2):
        raise StageError(
            f"{task.name}.train: every text has the label {found[0]!r}, and there is nothing to tell apart"
            if found
            else f"{task.name}.train: no text has a label"
        )
    return found


def _known(task: Task, splits: Mapping[str, Sequence[Example]], labels: Any) -> list[str]:
    """The labels of the training examples."""
    counts = {split: Counter(label for row in rows for label in labels(row)) for split, rows in splits.items()}
    strange = [
        f"{task.name}.{split}: {label!r} is the label of {count:,} examples, and of none that is learned from; correct "
        "it, or add such examples to train"
        for split, found in counts.items()
        for label, count in sorted(found.items())
        if label not in counts["train"]
    ]
    if strange:
        raise StageError("\n".join(strange))
    return sorted(counts["train"])


def counted(splits: Mapping[str, Sequence[Example]]) -> Iterator[tuple[str, dict[str, int]]]:
    """By split, how often each label occurs."""
    for split, rows in splits.items():
        found: Counter[str] = Counter()
        for row in rows:
            if "tags" in row:
                found.update(entity.kind for entity in tags.entities(row["tags"]))
            elif "score" not in row:
                found.update(row.get("labels", [row.get("label")]))
        yield split, dict(sorted(found.items()))
