"""Rules about tasks and their files."""

import posixpath

from llmrecipe.recipe.kinds import SPLITS, Task
from llmrecipe.recipe.quantity import Fraction
from llmrecipe.recipe.rules import Findings, Rules
from llmrecipe.recipe.task import QuestionAnswering

rules = Rules()


@rules.add("train", "validation", "test", of=Task)
def _splits(task: Task) -> Findings:
    shares = {split: share for split in SPLITS[1:] if isinstance(share := getattr(task, split), Fraction)}
    for split, share in shares.items():
        if share.of_total in (0, 1):
            yield split, f"{share} leaves it or the training examples empty; use some of them, such as Fraction(0.1)"
    if sum(share.of_total for share in shares.values()) >= 1:
        together = " and ".join(f"{split} = {share}" for split, share in shares.items())
        yield "validation", f"{together} leave nothing to learn from; use less, such as Fraction(0.1)"
    files: dict[str, str] = {}
    for split in SPLITS:
        file = getattr(task, split)
        if not isinstance(file, str):
            continue
        file = posixpath.normpath(file)
        if file in files:
            why = "what is learned from says nothing of what was learned" if files[file] == "train" else "one decides"
            reason = f"{file!r} is the file of {files[file]} as well, and {why}; give it one of its own, or a share"
            yield split, reason
        files.setdefault(file, split)


@rules.add("train", "validation", "test", of=Task)
def _ends(task: Task) -> Findings:
    ends = task.file_ends
    for split in SPLITS:
        file = getattr(task, split)
        if ends and isinstance(file, str) and not file.endswith(ends):
            known = f"none of {', '.join(map(repr, ends))}" if len(ends) > 1 else f"another than {ends[0]!r}"
            yield split, f"{file!r} ends in {known}; rename or convert it"


@rules.add(of=Task)
def _keys(task: Task) -> Findings:
    known: dict[str, str] = {}
    for field in task.key_fields:
        key = getattr(task, field)
        if isinstance(key, str) and key and known.setdefault(key, field) != field:
            yield field, f"{key!r} is {known[key]} as well; name a key of its own"


@rules.add("doc_stride", "max_length", of=QuestionAnswering)
def _windows(task: QuestionAnswering) -> Findings:
    most = task.max_length // 3
    if task.doc_stride > most:
        yield (
            "doc_stride",
            f"{task.doc_stride}, and of max_length = {task.max_length} tokens half may be the question, so windows of "
            f"the context would hardly move on; use at most {most}, a third of max_length",
        )


@rules.add("max_answer_length", "max_length", of=QuestionAnswering)
def _longest_answer(task: QuestionAnswering) -> Findings:
    if task.max_answer_length >= task.max_length:
        yield (
            "max_answer_length",
            f"{task.max_answer_length}, and max_length = {task.max_length} tokens are read at once, the question's "
            "among them; use less",
        )
