"""Rules about what a recipe measures: of which models, and on which text."""

import re
from collections.abc import Iterator, Sequence

from llmrecipe.recipe.chat_tasks import Instructions
from llmrecipe.recipe.custom_measure import CustomScores
from llmrecipe.recipe.kinds import Model
from llmrecipe.recipe.measure import TAKEN, Measure, Perplexity, Samples, Task
from llmrecipe.recipe.model import Calibrated
from llmrecipe.recipe.names import name_of
from llmrecipe.recipe.recipe import Recipe
from llmrecipe.recipe.rules import Fields, Findings, Rules
from llmrecipe.recipe.texts import common_text

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_]*")
"""What a measure may be called: without `-`, so `{model}-{measure}` can't be another model's."""

LONGEST_NAME = 50

STAGES = (
    "import",
    "prepare",
    "augment",
    "tokenizer",
    "tokenize",
    "mix",
    "train",
    "export",
    "hessians",
    "quantize",
    "prune",
    "predict",
    "distil",
    "examples",
    "finetune",
    "report",
    "release",
)
"""Kinds of stages, by which no measure can be called."""

rules = Rules()


@rules.add("prompts")
def _prompts(measure: Samples) -> Findings:
    if "" in measure.prompts:
        where = f"prompts[{measure.prompts.index('')}]"
        yield where, "an empty prompt gives the model nothing to continue; write a beginning, such as 'def '"


@rules.add("name", of=Measure)
def _measure_name(measure: Measure) -> Findings:
    name = measure.name
    if name in STAGES:
        yield "name", f"{name!r} is what a kind of stage is called; use another, such as '{measure.tag}_{name}'"
    elif len(name) > LONGEST_NAME:
        reason = f"{name[:40]!r}… has {len(name)} characters, and files are called so; use at most {LONGEST_NAME}"
        yield "name", reason
    elif not NAME.fullmatch(name):
        better = re.sub(r"[^A-Za-z0-9]+", "_", name.encode("ascii", "ignore").decode()).strip("_")
        proposal = f"; use {better!r}" if better and better not in (*STAGES, *TAKEN) else ""
        yield "name", f"{name!r} must begin with a letter or digit, followed by letters, digits and `_`{proposal}"


@rules.add("text", of=Measure)
def _unread_text(measure: Measure) -> Findings:
    if not measure.reads_text and measure.text is not None:
        yield "text", f"{measure.text.name} is given, and {type(measure).__name__} reads no text; leave it out"


@rules.add("samples", "run_code", of=Task)
def _unused_samples(measure: Task) -> Findings:
    if measure.samples > 1 and not measure.run_code:
        yield "samples", f"{measure.samples} answers are for the chance that one passes; use run_code=True, or 1"


def findings(recipe: Recipe, fields: Fields) -> Findings:
    """What is wrong with a recipe's measures, as far as fields are right."""
    if {"models", "measures"} & set(fields.wrong(recipe)):
        return
    models, measures = recipe.models, recipe.measures
    tasked = [model for model in models if fields.has(model, "task")]
    if tasked and not any(measure.reads_examples for measure in measures):
        what = f"how well {name_of(tasked[0])} does what it was taught"
        yield "measures", f"hold no Task, which says {what}; add measure.Task()"
    compressed = [model for model in models if isinstance(model, Calibrated) and model not in tasked]
    if compressed and not any(isinstance(measure, Perplexity) for measure in measures):
        yield "measures", "holds no Perplexity, which says how much of a model compression keeps; add Perplexity()"
    known: dict[str, str] = {}
    for index, measure in enumerate(measures):
        if not fields.is_right(measure):
            continue
        path = f"measures[{index}]"
        first = known.setdefault(measure.name, path)
        if first != path:
            yield path, f"is called {measure.name!r} like {first}; give it a name of its own, or remove it"
        if all(map(fields.is_right, models)) and not any(map(measure.is_of, models)):
            yield path, f"{type(measure).__name__} {_of_none(measure)}"
        if isinstance(measure, Task) and measure.run_code:
            yield from ((f"{path}.run_code", reason) for reason in _untested(tasked))
        if isinstance(measure, Task):
            yield from ((f"{path}.max_new_tokens", reason) for reason in _no_room(measure, tasked, fields))
        if isinstance(measure, CustomScores):
            yield from ((path, reason) for reason in _unsaid(measure))
        taught = [model for model in models if fields.has(model, "objective") and measure.is_of(model)]
        for reason in dict.fromkeys(measure.misfit(model.objective) for model in taught):
            if reason is not None:
                yield path, reason
        if measure.reads_text:
            yield from _text_findings(path, measure, models, fields)


def _untested(models: Sequence[Model]) -> Iterator[str]:
    """Why no program is run that such models write."""
    writers = [model for model in models if isinstance(model.task, Instructions)]
    untested = [model for model in writers if isinstance(model.task, Instructions) and model.task.tests_field is None]
    if untested or not writers:
        what = f"nothing tests what {name_of(untested[0])} writes" if untested else "no model writes programs"
        yield f"True, and {what}; give its Instructions a tests_field, or leave it out"


def _no_room(measure: Task, models: Sequence[Model], fields: Fields) -> Iterator[str]:
    """Why a model has no place for the answers that it is to write."""
    for model in models:
        if isinstance(model.task, Instructions) and fields.has(model, "network"):
            positions = model.network.max_position_embeddings
            if measure.max_new_tokens >= positions:
                yield (
                    f"{measure.max_new_tokens}, and {name_of(model)} reads at most {positions} tokens "
                    f"(max_position_embeddings), the question's among them; use at most {positions // 2}"
                )


def _of_none(measure: Measure) -> str:
    """Why a measure is of no model of a recipe."""
    if measure.reads_examples:
        return "asks for what models were taught to do, and none is FineTuned; remove it, or add one"
    if measure.reads_parent:
        return (
            "compares models layer by layer that are Quantized, and whose activations are neither evened out nor "
            "rotated, and there is none; remove it, or add one"
        )
    return "asks how well text is predicted, and all models have forgotten that for a task; remove it"


def _unsaid(measure: CustomScores) -> Iterator[str]:
    """What a measure of the user's own doesn't say of its scores."""
    if not measure.better:
        yield f'{type(measure).__name__}.better names no score; say which are better, better = {{"accuracy": "higher"}}'
    for score, better in measure.better.items():
        if better not in ("higher", "lower"):
            yield f"{type(measure).__name__}.better says {better!r} of {score!r}; say 'higher' or 'lower'"


def _text_findings(path: str, measure: Measure, models: tuple[Model, ...], fields: Fields) -> Findings:
    text = measure.text
    if text is None and all(_is_told(model, fields) for model in models):
        text = common_text(models)
        if text is None:
            yield f"{path}.text", f"is missing: {_texts(models)}; say which one they are measured on, text=Corpus(…)"
    lengths = [model.objective.sequence_length for model in models if fields.has(model, "objective.sequence_length")]
    if text is not None and lengths and fields.is_right(text):
        weights = [part.weight for part in text.parts]
        reason = measure.too_few_tokens(max(lengths), min(weights) / sum(weights))
        if reason is not None:
            yield f"{path}.max_tokens", reason


def _is_told(model: Model, fields: Fields) -> bool:
    """Whether a model's fields tell what it was trained on, if on anything here."""
    return fields.is_right(model) or (fields.has(model, "training_text") and fields.has(model, "name"))


def _texts(models: tuple[Model, ...]) -> str:
    """What each of the models was trained on."""
    return ", ".join(
        f"{model.name} was trained on {model.training_text.name}"
        if model.training_text is not None
        else f"{model.name} was not trained here"
        for model in models
    )
