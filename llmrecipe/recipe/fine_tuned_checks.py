"""Rules about what learns which task, and how."""

from typing import Any

from llmrecipe.recipe.augment import models
from llmrecipe.recipe.chat_tasks import ChatTask
from llmrecipe.recipe.distilled import Distilled
from llmrecipe.recipe.fine_tuned import FineTuned
from llmrecipe.recipe.kinds import Augmenter, Model
from llmrecipe.recipe.model import Trained
from llmrecipe.recipe.optimizer import SGD, AdamW
from llmrecipe.recipe.parallelism import Parallelism
from llmrecipe.recipe.pruned import Pruned
from llmrecipe.recipe.rules import Findings, Rules
from llmrecipe.recipe.task import Embeddings
from llmrecipe.recipe.tokenizer import TrainedTokenizer
from llmrecipe.recipe.training_checks import share_findings

rules = Rules()


@rules.add("task.template", "start", of=FineTuned)
def _no_template(model: FineTuned) -> Findings:
    tokenizer = model.vocabulary.origin
    if needs_template(model) and isinstance(tokenizer, TrainedTokenizer):
        yield "task.template", f"'own', and {tokenizer.name}, which is trained here, has none; use 'plain'"


def needs_template(model: FineTuned) -> bool:
    """Whether it learns from chats by a template that its tokenizer has had from the first."""
    return isinstance(model.task, ChatTask) and model.task.template == "own" and not _has_chatted(model.start)


def _has_chatted(model: Model) -> bool:
    """Whether it, or what it was made of, has learned from chats, and so has a template."""
    # What is trained on text has the tokenizer that was trained, without what a model had learned besides.
    is_made = not isinstance(model, Trained) and model.parents
    return isinstance(model.task, ChatTask) or bool(is_made and _has_chatted(model.parents[0]))


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


@rules.add("task", "start", of=FineTuned)
def _writes_no_more(model: FineTuned) -> Findings:
    if model.task.keeps_text and not model.start.predicts_text:
        yield "start", f"{model.start.name} has learned {_forgotten(model.start)}; start from what it was made of"


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
