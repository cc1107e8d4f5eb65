"""Files of names in sentences: a word a line with its tag, or JSON lines."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from llmrecipe.engines.tasks import files, tags
from llmrecipe.engines.tasks.examples import Example
from llmrecipe.engines.tasks.files import Faults
from llmrecipe.engines.tasks.reading.reader import Reader, known_labels
from llmrecipe.errors import StageError
from llmrecipe.recipe.task import NamedEntities

_DOCUMENT = "-DOCSTART-"


class NamesReader(Reader[NamedEntities]):
    """Sentences with a tag for each word, in groups by document."""

    tag: ClassVar[str] = NamedEntities.tag

    def asked(self, example: Example) -> Any:
        """The words of a sentence."""
        return example["words"]

    def read(self, path: Path, name: str) -> list[list[Example]]:
        """The sentences of each document; where none is marked, each is one."""
        faults = Faults(name)
        found = (
            _json_sentences(self.task, path, name, faults) if path.suffix == ".jsonl" else _conll(path, name, faults)
        )
        groups = [[_checked(each, faults) for each in group] for group in found]
        faults.refuse()
        groups = [group for group in groups if group]
        if not groups:
            raise StageError(f"{name}: holds no sentence")
        return groups

    def labels_of(self, splits: Mapping[str, Sequence[Example]]) -> list[str]:
        """Every tag of IOB2 for the types of the training examples."""
        name = self.task.name
        kinds = known_labels(name, splits, lambda row: {entity.kind for entity in tags.entities(row["tags"])})
        for split, rows in splits.items():
            if all(tag == tags.OUTSIDE for row in rows for tag in row["tags"]):
                reason = (
                    "there is nothing to learn"
                    if split == "train"
                    else "so it says nothing; use other or more sentences"
                )
                raise StageError(f"{name}.{split}: no word has another tag than {tags.OUTSIDE}, {reason}")
        return tags.labels_of(kinds)

    def counted(self, rows: Sequence[Example]) -> dict[str, int]:
        """How many entities there are of each type."""
        return dict(sorted(Counter(entity.kind for row in rows for entity in tags.entities(row["tags"])).items()))


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
        words, own = (files.value(row, field, number, faults) for field in (task.words_field, task.tags_field))
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
