"""Files of questions with their contexts and answers: SQuAD's, or JSON lines."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from llmrecipe.engines.tasks import files
from llmrecipe.engines.tasks.examples import Example
from llmrecipe.engines.tasks.files import Faults
from llmrecipe.engines.tasks.reading.reader import Reader
from llmrecipe.errors import StageError
from llmrecipe.recipe.task import QuestionAnswering

_SHOWN = 60
"""Characters of a text that a message shows."""

Place = int | str
"""A line, or the way to a question through a file of SQuAD."""

Asked = tuple[Place, str, Example]
"""A question with its place and what it stays together with: its article, or its context."""


class QuestionsReader(Reader[QuestionAnswering]):
    """Questions on contexts, in groups by article."""

    tag: ClassVar[str] = QuestionAnswering.tag

    def asked(self, example: Example) -> Any:
        """A question and its context."""
        return [example["context"], example["question"]]

    def read(self, path: Path, name: str) -> list[list[Example]]:
        """The questions of each article; where none is named, of each context."""
        faults = Faults(name)
        asked = _squad if path.suffix == ".json" else _json_lines
        groups: dict[str, list[Example]] = {}
        known: dict[str, Place] = {}
        for place, group, example in asked(self.task, path, name, faults):
            if example["id"] in known:
                faults.add(place, f"the id {example['id']!r} is that of {_said(known[example['id']])} as well")
            known.setdefault(example["id"], place)
            groups.setdefault(group, []).append(example)
            self._check(example, place, faults)
        faults.refuse()
        if not groups:
            raise StageError(f"{name}: holds no question")
        return list(groups.values())

    def _check(self, example: Example, place: Place, faults: Faults) -> None:
        """Whether the answers are where they are said to be."""
        answers, context = example["answers"], example["context"]
        if not answers["text"] and not self.task.unanswerable:
            faults.add(place, "has no answer; remove it, or say so of the task: unanswerable=True")
        for number, (text, start) in enumerate(zip(*answers.values(), strict=True), 1):
            answer = f"answer {number}, {_short(text)}," if isinstance(text, str) else f"answer {number}"
            if not isinstance(text, str) or not text.strip():
                faults.add(place, f"answer {number} must be a text that isn't empty, got {text!r}")
            elif not isinstance(start, int) or isinstance(start, bool) or start < 0:
                faults.add(place, f"{answer} begins at answer_start = {start!r}, which is no place; count from 0")
            elif context and not context.startswith(text, start):
                faults.add(
                    place, f"{answer} isn't in its context at answer_start = {start}; {_found(context, text, start)}"
                )

    def labels_of(self, splits: Mapping[str, Sequence[Example]]) -> list[str]:
        """None: places are predicted."""
        for split, rows in splits.items():
            with_answer = sum(bool(row["answers"]["text"]) for row in rows)
            if not with_answer:
                reason = "there is nothing to learn" if split == "train" else "so it says nothing; use other ones"
                raise StageError(f"{self.task.name}.{split}: no question has an answer, {reason}")
            if split == "train" and self.task.unanswerable and with_answer == len(rows):
                raise StageError(
                    f"{self.task.name}.train: unanswerable is True, and every question has an answer; leave it out, or "
                    "add some without"
                )
        return []

    def counted(self, rows: Sequence[Example]) -> dict[str, int]:
        """How many questions have an answer, and how many have none."""
        with_answer = sum(bool(row["answers"]["text"]) for row in rows)
        return {"answerable": with_answer, "unanswerable": len(rows) - with_answer}


def _json_lines(task: QuestionAnswering, path: Path, name: str, faults: Faults) -> Iterator[Asked]:
    for number, row in files.rows(path, name, faults):
        context = files.text(row, task.context_field, number, faults)
        question = files.text(row, task.question_field, number, faults)
        answers = _lists(files.value(row, task.answers_field, number, faults), task.answers_field, number, faults)
        title = row.get("title")
        group = f"title {title}" if isinstance(title, str) and title else f"context {context}"
        if answers is not None:
            own = str(row.get("id", number))
            yield number, group, {"id": own, "context": context, "question": question, "answers": answers}


def _lists(given: Any, field: str, line: int, faults: Faults) -> dict[str, list[Any]] | None:
    """Texts and where they begin; None, and a fault, if these are no such lists."""
    if given is None:
        return None
    texts, starts = (given.get(key) for key in ("text", "answer_start")) if isinstance(given, dict) else (None, None)
    if not isinstance(texts, list) or not isinstance(starts, list):
        faults.add(line, f'{field!r} must be {{"text": […], "answer_start": […]}}, got {_short(given)}')
    elif len(texts) != len(starts):
        faults.add(line, f"{len(texts)} texts in {field!r}, and {len(starts)} of answer_start")
    else:
        return {"text": texts, "answer_start": starts}
    return None


def _squad(task: QuestionAnswering, path: Path, name: str, faults: Faults) -> Iterator[Asked]:
    for one, article in enumerate(_objects(_parsed(path, name), "data", "the whole", faults) or [], 1):
        title = article.get("title")
        of_article = f"article {one}" + (f" ({_short(title)})" if title else "")
        for two, paragraph in enumerate(_objects(article, "paragraphs", of_article, faults) or [], 1):
            of_paragraph = f"{of_article}, paragraph {two}"
            context = files.text(paragraph, "context", of_paragraph, faults)
            for three, row in enumerate(_objects(paragraph, "qas", of_paragraph, faults) or [], 1):
                place = f"{of_paragraph}, question {row.get('id', three)}"
                own = files.value(row, "id", place, faults)
                question = files.text(row, "question", place, faults)
                answers = _objects(row, "answers", place, faults)
                if own is None or answers is None:
                    continue
                if row.get("is_impossible") is True and answers:
                    faults.add(place, "has answers, and is_impossible is true; remove one of both")
                if row.get("is_impossible") is False and not answers:
                    faults.add(place, "has no answers, and is_impossible is false; say true, or add one")
                lists = {key: [each.get(key) for each in answers] for key in ("text", "answer_start")}
                example = {"id": str(own), "context": context, "question": question, "answers": lists}
                yield place, of_article, example


def _parsed(path: Path, name: str) -> dict[str, Any]:
    text = "\n".join(line for _, line in files.lines(path, name))
    try:
        found = json.loads(text)
        json.dumps(found, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise StageError(f"{name}: holds half of a surrogate pair, which is no character") from None
    except ValueError as error:
        raise StageError(f"{name}: is no JSON: {error}; a file of a question a line ends in '.jsonl'") from None
    if not isinstance(found, dict):
        raise StageError(f"{name}: is no file of SQuAD, which is an object with 'data'")
    return found


def _objects(row: Mapping[str, Any], field: str, place: str, faults: Faults) -> list[dict[str, Any]] | None:
    """The objects of a list that a part of a file has; None, and a fault, if it has no such list."""
    found = files.value(row, field, place, faults)
    if found is not None and not (isinstance(found, list) and all(isinstance(each, dict) for each in found)):
        faults.add(place, f"{field!r} must be a list of objects, got {_short(found)}")
        return None
    return found


def _found(context: str, text: str, start: int) -> str:
    """Where a text is in its context, of several places the one nearest to where it should be."""
    places = [found.start() for found in re.finditer(re.escape(text), context)]
    return f"it is at {min(places, key=lambda place: abs(place - start))}" if places else "it is nowhere in it"


def _short(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= _SHOWN else f"{shown[: _SHOWN - 1]}…"


def _said(place: Place) -> str:
    return f"line {place}" if isinstance(place, int) else place
