"""Questions on a text, answered by words of it: where an answer begins and where it ends, or that there is none."""

import math
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import attrs
import torch
from torch.nn import functional
from transformers import PreTrainedTokenizerBase

from llmrecipe.cards import TaskCard
from llmrecipe.engines.tasks import squad
from llmrecipe.engines.tasks.examples import Example
from llmrecipe.engines.tasks.items import Batch, Padding
from llmrecipe.engines.tasks.score import Pooled, mean_where
from llmrecipe.engines.tasks.windows import NOWHERE, Frame, Span, Window, Windows
from llmrecipe.engines.tasks.work import Answers, Verdict, Work
from llmrecipe.recipe.task import QuestionAnswering

_BEST = 20
"""Answers of a window, and of a question, that are compared, as in transformers' own script."""

_NONE = "–"
"""Among the errors, in the place of an answer where there is none."""


@attrs.frozen(kw_only=True)
class Candidate:
    """What a window has for an answer."""

    span: Span | None
    """Where in the context it is; None for no answer."""

    score: float
    """The logits of its beginning and of its end, added up."""


class QuestionAnsweringWork(Work[QuestionAnswering]):
    """Where answers begin and end."""

    tag: ClassVar[str] = QuestionAnswering.tag

    head: ClassVar[str] = "QuestionAnswering"

    when_too_long: ClassVar[str] = (
        "the end of a question is left out, and an answer that no window has whole is taken for none"
    )

    def __init__(self, card: TaskCard, tokenizer: PreTrainedTokenizerBase) -> None:
        """For a model with this card and tokenizer."""
        super().__init__(card, tokenizer)
        self._windows = Windows(
            frame=Frame.of(tokenizer), max_length=self.task.max_length, overlap=self.task.doc_stride
        )

    def batch(self, items: Sequence[Window], fillers: int = 0) -> Batch:
        """Two labels for each window."""
        return Padding(token_id=self.fill_id, has_labels_by_token=False).batch(items, fillers)

    def items(self, examples: Sequence[Example]) -> tuple[list[Window], int]:
        """Windows of contexts, each with its question before it."""
        # What looks like a special token in a text is none.
        options = {"add_special_tokens": False, "split_special_tokens": True, "verbose": False}
        asked = self.tokenizer([example["question"] for example in examples], **options)["input_ids"]
        read = self.tokenizer([example["context"] for example in examples], return_offsets_mapping=True, **options)
        found: list[Window] = []
        too_long = 0
        for index, (example, question) in enumerate(zip(examples, asked, strict=True)):
            spans = [_whole(example["context"], *span) for span in read["offset_mapping"][index]]
            context = list(zip(read["input_ids"][index], spans, strict=True))
            answer = _answer(example)
            own = list(self._windows.of(question, context, answer, index))
            is_lost = answer is not None and all(window.labels == [NOWHERE, NOWHERE] for window in own)
            too_long += len(question) > self._windows.longest_question or is_lost
            found += own
        return found, too_long

    def loss(self, outputs: Any, batch: Batch, weights: torch.Tensor | None) -> torch.Tensor:
        """The mean of both cross-entropies, of beginnings and of ends, added up over windows."""
        sides = enumerate(_logits(outputs, batch))
        each = [functional.cross_entropy(of, batch["labels"][:, side], reduction="none") for side, of in sides]
        return (torch.stack(each).mean(0))[batch["counts"]].sum()

    def count(self, batch: Batch) -> torch.Tensor:
        """How many windows count."""
        return batch["counts"].sum()

    def answered(
        self, outputs: Any, batch: Batch, items: Sequence[Window]
    ) -> Iterator[tuple[int, int, list[Candidate]]]:
        """Of each window, that it has no answer, and the likeliest of all its spans."""
        starts, ends = _logits(outputs, batch)
        nowhere = (starts[:, NOWHERE] + ends[:, NOWHERE]).tolist()
        outside = torch.ones_like(starts, dtype=torch.bool)
        for row, item in enumerate(items):
            outside[row, item.first : item.first + len(item.spans)] = False
        starts, ends = (each.masked_fill(outside, -math.inf) for each in (starts, ends))
        most = min(self.task.max_answer_length, starts.shape[1])
        # Beside each beginning the ends that it may have: itself and those after it.
        after = functional.pad(ends, (0, most - 1), value=-math.inf).unfold(1, most, 1)
        best = (starts[:, :, None] + after).flatten(1).topk(min(_BEST, starts.shape[1] * most))
        rows = zip(items, nowhere, best.values.tolist(), best.indices.tolist(), strict=True)
        for item, none, scores, places in rows:
            found = [Candidate(span=None, score=none)]
            for score, place in zip(scores, places, strict=True):
                first, more = place // most - item.first, place % most
                if score > -math.inf:
                    span = item.spans[first][0], item.spans[first + more][1]
                    found.append(Candidate(span=span, score=score))
            yield item.example, item.number, found

    def chosen(self, examples: Sequence[Example], answers: Answers) -> list[list[tuple[str, float]]]:
        """The likeliest answers to each question, the best first, of which an empty one is none; with each the
        logarithm of its probability among these (softmax of their scores)."""
        windows: list[list[Candidate]] = [[] for _ in examples]
        for (index, _), candidates in sorted(answers.items()):
            windows[index] += candidates
        return [self._best(example["context"], own) for example, own in zip(examples, windows, strict=True)]

    def _best(self, context: str, candidates: Sequence[Candidate]) -> list[tuple[str, float]]:
        # Each window without the answer says that there is none: so does the context if all of them do.
        none = min(each.score for each in candidates if each.span is None)
        scores: dict[str, float] = {}
        for each in candidates:
            # Many tokenizers take the space before a word for its.
            text = context[slice(*each.span)].strip() if each.span is not None else ""
            if text:
                scores[text] = max(scores.get(text, -math.inf), each.score)
        found = sorted(scores.items(), key=lambda pair: -pair[1])[:_BEST]
        if self.task.unanswerable or not found:
            # Of equals, words come first.
            found = sorted([*found, ("", none)], key=lambda pair: -pair[1])
        logs = torch.tensor([score for _, score in found], dtype=torch.float64).log_softmax(0).tolist()
        return [(text, log) for (text, _), log in zip(found, logs, strict=True)]

    def verdict(self, examples: Sequence[Example], answers: Answers) -> Verdict:
        """F1 and exact matches as SQuAD has them, and of the questions with an answer and those without."""
        found = self.chosen(examples, answers)
        own = [example["answers"]["text"] for example in examples]
        scores = squad.scores([best[0][0] for best in found], own)
        f1, exact = scores["f1"], scores["exact_match"]
        numbers: dict[str, Any] = {name: score.value for name, score in scores.items()}
        pooled: dict[str, Pooled] = {}
        if self.task.unanswerable:
            has_one = [bool(gold) for gold in own]
            parts = {"has_answer_f1": has_one, "no_answer_accuracy": [not each for each in has_one]}
            # Of none, nothing is said.
            pooled = {name: mean_where(f1.above, there) for name, there in parts.items() if any(there)}
            numbers |= {name: each.value for name, each in pooled.items()}
        is_right = [bool(one) for one in exact.above]
        return Verdict(
            numbers=numbers,
            scores={"f1": f1, "exact_match": exact},
            pooled=pooled,
            errors=_errors(examples, found, is_right),
            sure=[(math.exp(best[0][1]), right) for best, right in zip(found, is_right, strict=True)],
        )


def _logits(outputs: Any, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """Those of beginnings and of ends, `float32[windows, tokens]`; nothing is where a window is filled up."""
    fills = batch["attention_mask"] == 0
    starts, ends = (each.float().masked_fill(fills, -math.inf) for each in (outputs.start_logits, outputs.end_logits))
    return starts, ends


def _whole(text: str, start: int, end: int) -> Span:
    """What a token is of a text, with the marks of its last letter, which some tokenizers leave out."""
    while end < len(text) and unicodedata.combining(text[end]):
        end += 1
    return start, end


def _answer(example: Example) -> Span | None:
    """Where the first answer of a question is, without spaces around it."""
    answers = example.get("answers")
    if answers is None or not answers["text"]:
        return None
    text, start = answers["text"][0], answers["answer_start"][0]
    start += len(text) - len(text.lstrip())
    return start, start + len(text.strip())


def _errors(
    examples: Sequence[Example], found: Sequence[Sequence[tuple[str, float]]], is_right: Sequence[bool]
) -> list[dict[str, Any]]:
    """Questions that were answered wrongly, by how much likelier their answer was held than the right one; where that
    was none of those compared, than the last of these."""
    errors = []
    for example, best, right in zip(examples, found, is_right, strict=True):
        gold = example["answers"]["text"]
        if right:
            continue
        own = [log for text, log in best if squad.exact_match(text, gold)]
        errors.append(
            {
                "id": example["id"],
                "surprise": best[0][1] - max(own, default=best[-1][1]),
                "question": example["question"],
                "expected": " | ".join(dict.fromkeys(gold)) or _NONE,
                "answered": best[0][0] or _NONE,
            }
        )
    return sorted(errors, key=lambda error: (-error["surprise"], error["id"]))


class Answerer:
    """A model that was fine-tuned for `QuestionAnswering`, for programs: it reads long contexts in windows, and says
    where there is no answer.

    The model in the same folder works with transformers' own `AutoModelForQuestionAnswering` as well.
    """

    def __init__(self, directory: str | Path) -> None:
        """Load the model in `directory`.

        Raises:
            StageError: there is none that was fine-tuned for this.
        """
        self._model, self._work = QuestionAnsweringWork.opened(directory)

    def __call__(self, question: str, context: str) -> str:
        """The words of a context that answer a question; nothing if there are none."""
        examples = [{"question": question, "context": context}]
        items, _ = self._work.items(examples)
        (best,) = self._work.chosen(examples, self._work.answers(self._model, items))
        return best[0][0]
