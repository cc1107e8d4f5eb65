"""Rules about what learns from which teacher, and about what transformers' Trainer can do of a training."""

from collections.abc import Iterator
from typing import Any

from llmrecipe.recipe.distilled import Distilled
from llmrecipe.recipe.fine_tuned_checks import layout_findings
from llmrecipe.recipe.kinds import Model, Objective
from llmrecipe.recipe.networks.network import Network
from llmrecipe.recipe.optimizer import SGD, AdamW
from llmrecipe.recipe.predictions import Predictions
from llmrecipe.recipe.quantity import Steps
from llmrecipe.recipe.rules import Findings, Rules
from llmrecipe.recipe.tokenizer import PretrainedTokenizer, TrainedTokenizer
from llmrecipe.recipe.training import Dropout, Training

_LONGEST_JOINED = 220
"""File systems end at 255 bytes, and there is more behind the name of predictions."""

rules = Rules()


@rules.add("student", "teacher", of=Distilled)
def _own_teacher(model: Distilled) -> Findings:
    if model.student == model.teacher:
        yield (
            "student",
            f"{model.teacher.name} is the teacher as well, of which it has nothing to learn; use a smaller network, or "
            f"what was made of it, such as Quantized(model={model.teacher.name}, …)",
        )


@rules.add("vocabulary", "teacher.vocabulary", of=Distilled)
def _other_tokenizer(model: Distilled) -> Findings:
    mine, its = model.vocabulary, model.teacher.vocabulary
    # Two that exist already may be the same in their files, which the stage compares.
    may_be_equal = isinstance(mine.origin, PretrainedTokenizer) and isinstance(its.origin, PretrainedTokenizer)
    if mine != its and not may_be_equal:
        yield (
            "teacher",
            f"{model.teacher.name} reads the tokens of {its.name}, and the student {model.parents[0].name} those of "
            f"{mine.name}: what the one predicts means nothing to the other; use a teacher and a student with one "
            "tokenizer",
        )


@rules.add("student", of=Distilled)
def _expanded_to_bfloat16(model: Distilled) -> Findings:
    if model.is_bfloat16:
        yield (
            "student",
            f"{model.parents[0].name} has formats that transformers expands to bfloat16, and a student learns in "
            "float32; distil one in other formats, or quantize what comes of a distillation",
        )


@rules.add("student.objective", "teacher.objective", of=Distilled)
def _other_objective(model: Distilled) -> Findings:
    for path, reason in objective_findings(model.objective, model.teacher.objective):
        yield path, f"{model.teacher.name} {reason}"


def objective_findings(student: Objective, teacher: Objective) -> Findings:
    """Why a student can't learn from a teacher that predicts in another way, to be read after the teacher's name."""
    if student.is_masked != teacher.is_masked:
        what = {True: "masked tokens", False: "each token from those before it"}
        yield (
            "teacher",
            f"predicts {what[teacher.is_masked]}, and the student {what[student.is_masked]}; use a teacher trained by "
            f"{type(student).__name__}",
        )


@rules.add("objective", of=Distilled)
def _foreign_objective(model: Distilled) -> Findings:
    if model.objective.module:
        place = "student" if isinstance(model.student, Model) else "teacher"
        yield (
            place,
            f"{model.parents[0].name} predicts by {type(model.objective).__name__}, whose batches are made for "
            "nanotron alone; use a model trained by CausalLM or MaskedLM",
        )


@rules.add("objective.sequence_length", "teacher.network.max_position_embeddings", of=Distilled)
def _too_long_for_teacher(model: Distilled) -> Findings:
    for path, reason in length_findings(model.objective, model.teacher.network):
        yield path, f"{model.teacher.name} {reason}"


def length_findings(student: Objective, teacher: Network) -> Findings:
    """Why a teacher can't read what its student does, to be read after the teacher's name."""
    length, longest = student.sequence_length, teacher.max_position_embeddings
    if length > longest:
        yield (
            "teacher",
            f"reads at most {longest} tokens (max_position_embeddings), and the student {length} (sequence_length); "
            "use a teacher that reads as many, or a student of shorter sequences",
        )


@rules.add("text", "student", "teacher", of=Distilled)
def _no_text(model: Distilled) -> Findings:
    if model.training_text is None:
        names = " and ".join(parent.name for parent in model.parents)
        yield "text", f"is missing, and {names} learned elsewhere, from a text that isn't here; give it, text=Corpus(…)"


@rules.add("student", "teacher", "parallelism", "teacher_logits", of=Distilled)
def _rounded_and_shared(model: Distilled) -> Findings:
    # A teacher whose predictions are stored isn't there.
    there = model.parents if model.teacher_logits is None else model.parents[:-1]
    rounded = [parent.name for parent in there if parent.is_rounded]
    if rounded and model.parallelism.zero_stage == 3:
        yield (
            "parallelism.zero_stage",
            f"3 has ranks share student and teacher, and {rounded[0]} is quantized: its layers put rounded weights in "
            "the place of those that were gathered, which then would never learn; use 0, or distil what isn't "
            "quantized and quantize what comes of it",
        )


@rules.add("vocabulary", "objective", "teacher_logits", "teacher.vocabulary", "teacher.objective", of=Distilled)
def _other_predictions(model: Distilled) -> Findings:
    if model.teacher_logits is None:
        return
    its, tokenizer = model.teacher, model.teacher.vocabulary.origin
    own = None
    if model.objective != its.objective:
        own = "an objective of its own"
    elif model.vocabulary != its.vocabulary:
        own = "a tokenizer of its own, though its tokens may be the same"
    if own is not None:
        yield (
            "teacher_logits",
            f"the student has {own}, and what is stored is what {its.name} predicts by that of {its.name}; leave it "
            "out, so that the teacher is asked",
        )
    if isinstance(tokenizer, TrainedTokenizer) and model.teacher_logits.top_k > tokenizer.vocab_size:
        yield (
            "teacher_logits.top_k",
            f"{model.teacher_logits.top_k:,} of a vocabulary of {tokenizer.vocab_size:,}; use at most that",
        )


@rules.add("teacher_logits", "training", "training_text", "teacher", of=Distilled)
def _too_long_together(model: Distilled) -> Findings:
    stored = Predictions.of(model) if isinstance(model.training.duration, Steps) else None
    if stored is not None and len(stored.name) > _LONGEST_JOINED:
        yield (
            "teacher_logits",
            f"what is stored is called by its teacher {model.teacher.name[:40]!r}… and its text "
            f"{stored.text.name[:40]!r}…, which have {len(stored.name)} characters with its sizes; use at most "
            f"{_LONGEST_JOINED}",
        )


@rules.add("teacher_logits", "loss", "training", "hidden_states")
def _not_stored(run: Any) -> Findings:
    if run.teacher_logits is None:
        return
    if run.loss.temperature != 1:
        yield (
            "loss.temperature",
            f"{run.loss.temperature:g} is for all logits of a teacher, of which the likeliest alone are stored; use 1, "
            "or leave teacher_logits out",
        )
    if run.hidden_states is not None:
        yield "hidden_states", "need the teacher, and its predictions alone are stored; leave teacher_logits out"
    if not isinstance(run.training.duration, Steps):
        yield (
            "training.duration",
            f"{type(run.training.duration).__name__}(…) doesn't say how many sequences the teacher predicts before its "
            "text is there; use Steps(…), or leave teacher_logits out",
        )


# Only a distillation has this field, be it a model or a stage's section.
@rules.add("hard_loss_weight", "training", "parallelism")
def _beyond_the_trainer(run: Any) -> Findings:
    yield from _training(run.training)
    yield from layout_findings(run.parallelism)


def _training(training: Training) -> Iterator[tuple[str, str]]:
    """What transformers' Trainer, as it is used here, can't do of a training."""
    anomalies, optimizer = training.anomalies, training.optimizer
    if not isinstance(optimizer, AdamW | SGD):
        yield (
            "training.optimizer",
            f"{type(optimizer).__name__} is for models that nanotron trains; a student learns by AdamW or SGD",
        )
    if training.dropout != Dropout():
        yield "training.dropout", "drops what the student is compared by, which is all of it; leave it out"
    if training.z_loss:
        yield "training.z_loss", f"{training.z_loss:g} is for a loss of nanotron's; leave it out"
    if training.parameters != "all":
        yield "training.parameters", f"{training.parameters!r} leaves most of the student as it is; use 'all'"
    if training.precision == "float8":
        yield "training.precision", "'float8' is for models that nanotron trains; use 'bfloat16' or 'float32'"
    if training.select != "last":
        yield "training.select", f"{training.select!r} needs the weights of other steps than the last; use 'last'"
    if training.keep_every is not None:
        yield (
            "training.keep_every",
            f"{training.keep_every}, and only the last step of a distillation is kept; leave it out",
        )
    if anomalies.action != "stop":
        yield "training.anomalies.action", f"{anomalies.action!r} is for models that nanotron trains; use 'stop'"
    if anomalies.spike_sigmas is not None:
        yield (
            "training.anomalies.spike_sigmas",
            f"{anomalies.spike_sigmas:g} is for models that nanotron trains; leave it out",
        )
