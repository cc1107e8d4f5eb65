"""Rules about what learns which task, and how."""

import posixpath
from typing import Any

from llmrecipe.recipe.augment import models
from llmrecipe.recipe.distilled import Distilled
from llmrecipe.recipe.fine_tuned import FineTuned
from llmrecipe.recipe.kinds import SPLITS, Augmenter, Model, Task
from llmrecipe.recipe.model import Trained
from llmrecipe.recipe.optimizer import SGD, AdamW
from llmrecipe.recipe.parallelism import Parallelism
from llmrecipe.recipe.pruned import Pruned
from llmrecipe.recipe.quantity import Fraction
from llmrecipe.recipe.rules import Findings, Rules
from llmrecipe.recipe.task import (
    QUESTIONS,
    TABLES,
    ChatTask,
    Classification,
    Embeddings,
    Instructions,
    NamedEntities,
    Preferences,
    QuestionAnswering,
)
from llmrecipe.recipe.tokenizer import TrainedTokenizer
from llmrecipe.recipe.training_checks import share_findings

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


@rules.add("train", "validation", "test", of=(Classification, Embeddings))
def _tables(task: Task) -> Findings:
    yield from _of_another_kind(task, TABLES)


@rules.add("train", "validation", "test", of=ChatTask)
def _json_lines(task: ChatTask) -> Findings:
    yield from _of_another_kind(task, (".jsonl",))


def _of_another_kind(task: Task, ends: tuple[str, ...]) -> Findings:
    for split in SPLITS:
        file = getattr(task, split)
        if isinstance(file, str) and not file.endswith(ends):
            yield split, f"{file!r} ends in {_none_of(ends)}; rename or convert it"


def _none_of(ends: tuple[str, ...]) -> str:
    return f"none of {', '.join(map(repr, ends))}" if len(ends) > 1 else f"another than {ends[0]!r}"


@rules.add("messages_field", "tests_field", of=Instructions)
def _one_key(task: Instructions) -> Findings:
    if task.messages_field == task.tests_field:
        yield "tests_field", f"{task.tests_field!r} is messages_field as well; name the key of the tests"


@rules.add("messages_field", "chosen_field", "rejected_field", of=Preferences)
def _own_keys(task: Preferences) -> Findings:
    known: dict[str, str] = {}
    for field in ("messages_field", "chosen_field", "rejected_field"):
        first = known.setdefault(getattr(task, field), field)
        if first != field:
            yield field, f"{getattr(task, field)!r} is {first} as well; name a key of its own"


@rules.add("task.template", "start", of=FineTuned)
def _no_template(model: FineTuned) -> Findings:
    task, tokenizer = model.task, model.vocabulary.origin
    if not isinstance(task, ChatTask) or task.template == "plain" or _has_chatted(model.start):
        return
    if isinstance(tokenizer, TrainedTokenizer):
        yield "task.template", f"'own', and {tokenizer.name}, which is trained here, has none; use 'plain'"


def _has_chatted(model: Model) -> bool:
    """Whether it, or what it was made of, has learned from chats, and so has a template."""
    return isinstance(model.task, ChatTask) or any(map(_has_chatted, model.parents))


@rules.add("words_field", "tags_field", of=NamedEntities)
def _one_field(task: NamedEntities) -> Findings:
    if task.words_field == task.tags_field:
        yield "tags_field", f"{task.tags_field!r} is words_field as well; name the key of the tags"


@rules.add("train", "validation", "test", of=QuestionAnswering)
def _questions(task: QuestionAnswering) -> Findings:
    yield from _of_another_kind(task, QUESTIONS)


@rules.add("context_field", "question_field", "answers_field", of=QuestionAnswering)
def _own_fields(task: QuestionAnswering) -> Findings:
    known: dict[str, str] = {}
    for field in ("context_field", "question_field", "answers_field"):
        key = getattr(task, field)
        if key in known:
            yield field, f"{key!r} is {known[key]} as well; name the key of its own"
        known.setdefault(key, field)


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


@rules.add("query_field", "positive_field", "negative_field", of=Embeddings)
def _fields_of_pairs(task: Embeddings) -> Findings:
    if task.positive_field == task.query_field:
        yield "positive_field", f"{task.positive_field!r} is query_field as well; name the field of what it looks for"
    if task.negative_field in (task.query_field, task.positive_field):
        yield "negative_field", f"{task.negative_field!r} is another field as well; name that of the negative"


@rules.add("task", "start.network", of=FineTuned)
def _unfit(model: FineTuned) -> Findings:
    yield from model.task.misfits(model.start.network)


@rules.add("task.max_length", "start.network.max_position_embeddings", of=FineTuned)
def _too_long(model: FineTuned) -> Findings:
    length, longest = model.task.max_length, model.start.network.max_position_embeddings
    if length > longest:
        yield (
            "task.max_length",
            f"{length}, and {model.start.name} reads at most {longest} tokens (max_position_embeddings); use at most "
            f"{longest}",
        )


@rules.add("start", of=FineTuned)
def _rounded(model: FineTuned) -> Findings:
    if model.start.is_rounded:
        yield (
            "start",
            f"{model.start.name} is {type(model.start).__name__}: its weights are rounded, and can't be trained; start "
            f"from what it was made of, and quantize what comes of it",
        )


@rules.add("training.adapter", "start.network", of=FineTuned)
def _unfit_adapter(model: FineTuned) -> Findings:
    adapter = model.training.adapter
    for field, reason in adapter.misfits(model.start.network) if adapter else ():
        yield f"training.adapter.{field}", reason


@rules.add("start", "training.adapter", of=FineTuned)
def _adapted_zeros(model: FineTuned) -> Findings:
    if model.training.adapter and model.start.is_sparse:
        yield "training.adapter", adapted_zeros(model.start.name)


def adapted_zeros(start: str) -> str:
    """Why what has zeros learns by no adapter."""
    return (
        f"is given, and {start} has zeros, which an adapter fills when it is merged; use None, or fine-tune what "
        "was pruned, and prune what comes of it"
    )


@rules.add("objective", of=FineTuned)
def _foreign_objective(model: FineTuned) -> Findings:
    if model.objective.module:
        yield (
            "start",
            f"{model.start.name} was trained by {type(model.objective).__name__}, which nanotron alone computes; start "
            "from a model trained by MaskedLM or CausalLM",
        )


@rules.add("start", of=Trained)
def _trained_further(model: Trained) -> Findings:
    if isinstance(model.start, Model) and not model.start.predicts_text:
        yield "start", f"{model.start.name} has learned {_forgotten(model.start)}; start from what it was made of"


@rules.add("student", "teacher", of=Distilled)
def _distilled(model: Distilled) -> Findings:
    for path in ("student", "teacher"):
        parent = getattr(model, path)
        if isinstance(parent, Model) and not parent.predicts_text:
            yield (
                path,
                f"{parent.name} has learned {_forgotten(parent)}; distil what it was made of, and fine-tune what comes "
                "of that",
            )


def _forgotten(model: Model) -> str:
    return f"{model.task.name}, and predicts no text any more" if model.task else ""


# Only a fine-tuning has this field, be it a model's or that of a stage's section.
@rules.add("average_decay", "optimizer")
def _optimizer(training: Any) -> Findings:
    if not isinstance(training.optimizer, AdamW | SGD):
        name = type(training.optimizer).__name__
        yield "optimizer", f"{name} is for models that nanotron trains; a task is learned by AdamW or SGD"


@rules.add("task", "training.schedule")
def _phases(run: Any) -> Findings:
    yield from share_findings(run.training.schedule)


@rules.add("model", "method", of=Pruned)
def _cut_below_a_head(model: Pruned) -> Findings:
    if not model.model.predicts_text and not model.method.is_sparse:
        what = type(model.method).__name__
        yield (
            "method",
            f"prune.{what} makes another network, and {model.model.name} has learned {_forgotten(model.model)}; prune "
            "what it was made of, and fine-tune what comes of that",
        )


@rules.add(of=Augmenter)
def _writes_no_text(augmenter: Augmenter) -> Findings:
    for path, model in models(augmenter).items():
        if isinstance(model, Model) and not model.predicts_text:
            yield path, f"{model.name} has learned {_forgotten(model)}; use what it was made of"


@rules.add("task", "training.class_weights")
def _no_classes(run: Any) -> Findings:
    if run.training.class_weights is not None and not run.task.has_classes:
        reason = "what is predicted is of no class: it is a score, a text or a vector"
        yield "training.class_weights", f"{run.training.class_weights!r}, and {reason}; leave it out"


@rules.add("task", "parallelism.micro_batch_size")
def _nothing_to_contrast(run: Any) -> Findings:
    if isinstance(run.task, Embeddings) and run.task.negative_field is None and run.parallelism.micro_batch_size == 1:
        yield (
            "parallelism.micro_batch_size",
            "1, and a query learns to tell what it looks for from that of the other pairs which a rank reads with it; "
            "use more, such as 32, or name a negative_field",
        )


@rules.add("task", "training", "parallelism")
def _layout(run: Any) -> Findings:
    yield from layout_findings(run.parallelism)


def layout_findings(parallelism: Parallelism) -> Findings:
    """Which layouts transformers' Trainer, as it is used here, can't have."""
    for name in ("tensor", "pipeline"):
        ranks = getattr(parallelism, name)
        if ranks > 1:
            yield (
                f"parallelism.{name}",
                f"{ranks} ranks would compute a replica's layers together, and here each computes all of them; use "
                f"{name} = 1, and data = {ranks * parallelism.data} for as many ranks, with "
                "zero_stage = 3 if they are too large for one",
            )
    if parallelism.zero_stage == 1:
        yield (
            "parallelism.zero_stage",
            "1, which shares the optimizer's state alone, is for models that nanotron trains; use 3, which shares the "
            "weights as well, or 0",
        )
    if parallelism.recompute_activations:
        yield (
            "parallelism.recompute_activations",
            "True is for models that nanotron trains; use False, and a smaller micro_batch_size if memory is short",
        )
