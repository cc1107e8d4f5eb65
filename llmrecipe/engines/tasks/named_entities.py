"""Names in a text: a tag for each word, predicted at the first of its tokens."""

import bisect
import itertools
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import attrs
import numpy as np
import torch
from torch.nn import functional
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from llmrecipe.cards import TaskCard
from llmrecipe.engines.tasks.counting import ByClass, Counts, added, by_class, macro_f1, report
from llmrecipe.engines.tasks.examples import Example
from llmrecipe.engines.tasks.items import UNLABELLED, Batch, Item, Padding
from llmrecipe.engines.tasks.score import Score
from llmrecipe.engines.tasks.tags import OUTSIDE, entities
from llmrecipe.engines.tasks.viterbi import likeliest
from llmrecipe.engines.tasks.work import Answers, Verdict, Work, balanced
from llmrecipe.recipe.task import CASES, NamedEntities

_LOWER, _CAPITALIZED, _UPPER, _MIXED = range(len(CASES))

Piece = tuple[list[int], int, int, int]
"""Tokens of a word, its label, and the example and word that it is."""


def case_of(word: str) -> int:
    """How a word is written, as a token type: see `recipe.task.CASES`."""
    letters = [letter for letter in word if letter.isalpha()]
    if not any(letter.isupper() for letter in letters):
        return _LOWER
    if len(letters) > 1 and all(letter.isupper() for letter in letters):
        return _UPPER
    is_first = letters[0].isupper() and not any(letter.isupper() for letter in letters[1:])
    return _CAPITALIZED if is_first else _MIXED


class NamedEntitiesWork(Work[NamedEntities]):
    """Tags of words."""

    tag: ClassVar[str] = NamedEntities.tag

    head: ClassVar[str] = "TokenClassification"

    when_too_long: ClassVar[str] = "a sentence is cut into parts that are read by themselves"

    def __init__(self, card: TaskCard, tokenizer: PreTrainedTokenizerBase) -> None:
        """For a model with this card and tokenizer."""
        super().__init__(card, tokenizer)
        self._around = _around(tokenizer)
        self._numbers = {label: number for number, label in enumerate(card.labels)}

    def batch(self, items: Sequence[Item], fillers: int = 0) -> Batch:
        """A label for each token."""
        return Padding(token_id=self.fill_id, has_labels_by_token=True).batch(items, fillers)

    def items(self, examples: Sequence[Example]) -> tuple[list[Item], int]:
        """Windows of whole sentences, of one document if documents are known, with a label at each first token.

        A sentence is cut only where it alone is too long.
        """
        room = self.task.max_length - sum(map(len, self._around))
        found: list[Item] = []
        window: list[Piece] = []
        document, too_long = None, 0
        for sentence, own in zip(self._pieces(examples), examples, strict=True):
            size = sum(len(piece[0]) for piece in sentence)
            too_long += size > room
            is_same = "document" in own and own["document"] == document
            if window and (not is_same or size + sum(len(piece[0]) for piece in window) > room):
                found.append(self._item(window, examples))
                window = []
            document = own.get("document")
            for piece in sentence:
                if window and len(piece[0]) + sum(len(other[0]) for other in window) > room:
                    found.append(self._item(window, examples))
                    window = []
                window.append((piece[0][:room], *piece[1:]))
        if window:
            found.append(self._item(window, examples))
        return found, too_long

    def _pieces(self, examples: Sequence[Example]) -> Iterator[list[Piece]]:
        """The words of each sentence, as they are in a text: many tokenizers take the space before a word for its."""
        if not examples:
            return
        unknown = self.tokenizer.unk_token_id
        encoded = self.tokenizer(
            [" ".join(example["words"]) for example in examples],
            add_special_tokens=False,
            return_offsets_mapping=True,
            # A word that looks like a special token is none.
            split_special_tokens=True,
            verbose=False,
        )
        for index, example in enumerate(examples):
            tokens: list[list[int]] = [[] for _ in example["words"]]
            ends = [end - 1 for end in itertools.accumulate(len(word) + 1 for word in example["words"])]
            for token, (_, end) in zip(encoded["input_ids"][index], encoded["offset_mapping"][index], strict=True):
                tokens[min(bisect.bisect_left(ends, end), len(tokens) - 1)].append(token)
            # Signs that a tokenizer leaves out are words as well.
            filled = [each or [self.fill_id if unknown is None else unknown] for each in tokens]
            own = example.get("tags", [OUTSIDE] * len(filled))
            yield [
                (each, self._numbers[tag], index, word)
                for word, (each, tag) in enumerate(zip(filled, own, strict=True))
            ]

    def _item(self, window: Sequence[Piece], examples: Sequence[Example]) -> Item:
        before, after = self._around
        input_ids, labels, places = list(before), [UNLABELLED] * len(before), []
        types = [_LOWER] * len(before)
        for tokens, label, example, word in window:
            places.append((len(input_ids), example, word))
            input_ids += tokens
            labels += [label, *[UNLABELLED] * (len(tokens) - 1)]
            types += [case_of(examples[example]["words"][word])] * len(tokens)
        return Item(
            input_ids=[*input_ids, *after],
            labels=[*labels, *[UNLABELLED] * len(after)],
            token_types=[*types, *[_LOWER] * len(after)] if self.task.case_as_token_types else None,
            places=tuple(places),
        )

    def loss(self, outputs: Any, batch: Batch, weights: torch.Tensor | None) -> torch.Tensor:
        """Cross-entropy, added up over words."""
        labels = batch["labels"].masked_fill(~batch["counts"][:, None], UNLABELLED)
        logits = outputs.logits.flatten(0, 1).float()
        return functional.cross_entropy(logits, labels.flatten(), weight=weights, reduction="sum")

    def weights(self, items: Sequence[Item]) -> torch.Tensor:
        """By words."""
        return balanced([label for item in items for label in item.labels if label >= 0], len(self.card.labels))

    def count(self, batch: Batch) -> torch.Tensor:
        """How many words count."""
        return ((batch["labels"] != UNLABELLED) & batch["counts"][:, None]).sum()

    def answered(self, outputs: Any, batch: Batch, items: Sequence[Item]) -> list[tuple[int, int, list[float]]]:
        """The logarithms of the probabilities of each word's tags."""
        rows = [row for row, item in enumerate(items) for _ in item.places]
        places = [place for item in items for place, *_ in item.places]
        logs = outputs.logits[rows, places].float().log_softmax(-1).cpu().tolist()
        known = [(example, word) for item in items for _, example, word in item.places]
        return [(*each, own) for each, own in zip(known, logs, strict=True)]

    def tags_of(self, examples: Sequence[Example], answers: Answers, *, free: bool = False) -> list[list[str]]:
        """The likeliest tags of each sentence: of all that are allowed, or, if `free`, of each word by itself."""
        found: list[list[str]] = []
        for index, example in enumerate(examples):
            if not example["words"]:
                found.append([])
                continue
            logs = np.array([answers[index, word] for word in range(len(example["words"]))])
            path = logs.argmax(axis=1).tolist() if free else likeliest(logs, self.card.labels)
            found.append([self.card.labels[number] for number in path])
        return found

    def verdict(self, examples: Sequence[Example], answers: Answers) -> Verdict:
        """Reports on entities and on tags of words."""
        said = self.tags_of(examples, answers)
        own = [example["tags"] for example in examples]
        of_entities, of_words = _counted(own, said)
        sums = [sum(each.values(), Counts()) for each in of_entities]
        entity_f1 = Score(
            better="higher",
            above=[2.0 * each.right for each in sums],
            below=[float(each.said + each.there) for each in sums],
        )
        right = [sum(one == other for one, other in zip(*pair, strict=True)) for pair in zip(own, said, strict=True)]
        accuracy = Score(better="higher", above=list(map(float, right)), below=[float(len(each)) for each in own])
        return Verdict(
            numbers=self._reports(of_entities, of_words),
            scores={"entity_f1": entity_f1, "word_micro_f1": accuracy},
            pooled={
                "entity_macro_f1": macro_f1(of_entities, self._kinds),
                "word_macro_f1": macro_f1(of_words, self.card.labels),
            },
            errors=self._errors(examples, answers, own, said),
            pairs=_pairs(own, said, self.card.labels),
            sure=[
                (math.exp(answers[index, word][self._numbers[tag]]), tag == own[index][word])
                for index, tags in enumerate(said)
                for word, tag in enumerate(tags)
            ],
        )

    @property
    def _kinds(self) -> list[str]:
        """Of entities."""
        return sorted({label.partition("-")[2] for label in self.card.labels} - {""})

    def _reports(self, of_entities: Sequence[ByClass], of_words: Sequence[ByClass]) -> dict[str, Any]:
        entities, words = report(added(of_entities, self._kinds)), report(added(of_words, self.card.labels))
        return {
            "entity_f1": entities["micro"]["f1"],
            "entity_macro_f1": entities["macro"]["f1"],
            "word_micro_f1": words["micro"]["f1"],
            "word_macro_f1": words["macro"]["f1"],
            "entities": entities,
            "words": words,
        }

    def plain(self, model: PreTrainedModel, items: Sequence[Item], examples: Sequence[Example]) -> dict[str, Any]:
        """The means where every word is read as a lower one, and gets the likeliest tag by itself."""
        untold = [attrs.evolve(item, token_types=None) for item in items]
        said = self.tags_of(examples, self.answers(model, untold), free=True)
        numbers = self._reports(*_counted([example["tags"] for example in examples], said))
        return {name: number for name, number in numbers.items() if isinstance(number, float)}

    def _errors(self, examples: Sequence[Example], answers: Answers, own: Any, said: Any) -> list[dict[str, Any]]:
        """Sentences with wrong tags, by how unlikely their own were held."""
        found = []
        for index, example in enumerate(examples):
            if own[index] == said[index]:
                continue
            surprise = -sum(answers[index, word][self._numbers[tag]] for word, tag in enumerate(own[index]))
            found.append(
                {
                    "id": example["id"],
                    "surprise": surprise,
                    "expected": _marked(example["words"], own[index]),
                    "answered": _marked(example["words"], said[index]),
                }
            )
        return sorted(found, key=lambda error: (-error["surprise"], error["id"]))


def _around(tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int]]:
    """The special tokens that a tokenizer puts before and behind a text."""
    empty = list(tokenizer("")["input_ids"])
    is_end = len(empty) == 1 and empty[0] in (tokenizer.eos_token_id, tokenizer.sep_token_id)
    before = 0 if is_end else (len(empty) + 1) // 2
    return empty[:before], empty[before:]


def _counted(own: Sequence[Sequence[str]], said: Sequence[Sequence[str]]) -> tuple[list[ByClass], list[ByClass]]:
    """Of each sentence, the counts of its entities by kind, and those of its words by tag."""
    pairs = list(zip(own, said, strict=True))
    of_entities = [by_class(entities(one), entities(other), lambda entity: entity.kind) for one, other in pairs]
    of_words = [by_class(enumerate(one), enumerate(other), lambda word: word[1]) for one, other in pairs]
    return of_entities, of_words


def _pairs(
    own: Sequence[Sequence[str]], said: Sequence[Sequence[str]], labels: Sequence[str]
) -> list[tuple[str, str, int]]:
    counts: dict[tuple[str, str], int] = {}
    for row in zip(own, said, strict=True):
        for pair in zip(*row, strict=True):
            counts[pair] = counts.get(pair, 0) + 1
    return [(one, other, counts.get((one, other), 0)) for one in labels for other in labels]


def _marked(words: Sequence[str], given: Sequence[str]) -> str:
    """A sentence with its entities in brackets: `[PER Ada] writes`."""
    found = {each.first: each for each in entities(given)}
    ends = {each.end for each in found.values()}
    parts = []
    for index, word in enumerate(words):
        opened = f"[{found[index].kind} {word}" if index in found else word
        parts.append(f"{opened}]" if index + 1 in ends else opened)
    return " ".join(parts)


class Tagger:
    """A model that was fine-tuned for `NamedEntities`, for programs: it knows how words are written, and of tags only
    sequences that IOB2 allows.

    The model in the same folder works with transformers' own `AutoModelForTokenClassification` as well, which reads
    every word as a lower one and takes the likeliest tag of each.
    """

    def __init__(self, directory: str | Path) -> None:
        """Load the model in `directory`.

        Raises:
            StageError: there is none that was fine-tuned for this.
        """
        self._model, self._work = NamedEntitiesWork.opened(directory)

    def __call__(self, sentences: Sequence[Sequence[str]]) -> list[list[str]]:
        """The tags of the words of each sentence, such as `[["Ada", "writes"]]`; each is read by itself."""
        examples = [{"words": list(words)} for words in sentences]
        items, _ = self._work.items(examples)
        return self._work.tags_of(examples, self._work.answers(self._model, items))
