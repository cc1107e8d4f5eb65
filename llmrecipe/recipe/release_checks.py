"""Rules about which model a recipe releases."""

from collections.abc import Mapping, Sequence

from llmrecipe.errors import suggestion
from llmrecipe.recipe.custom_measure import CustomScores
from llmrecipe.recipe.gate import Recovery, Score, Speed
from llmrecipe.recipe.kinds import Gate, Model
from llmrecipe.recipe.measure import (
    LayerErrors,
    LMEval,
    Measure,
    Perplexity,
    PseudoPerplexity,
    Samples,
    Task,
    TokenMeasure,
)
from llmrecipe.recipe.recipe import Recipe
from llmrecipe.recipe.rules import Fields, Findings, Rules

rules = Rules()


@rules.add("at_least", "at_most", of=Score)
def _bounds(gate: Score) -> Findings:
    if gate.at_least is None and gate.at_most is None:
        yield "at_least", f"is missing, and so is at_most: say which {gate.number} passes"
    elif gate.at_least is not None and gate.at_most is not None and gate.at_least > gate.at_most:
        yield "at_least", f"{gate.at_least:g} is more than at_most = {gate.at_most:g}, so nothing passes"


def findings(recipe: Recipe, fields: Fields) -> Findings:
    """What is wrong with what a recipe releases, as far as fields are right; paths below the recipe."""
    release = recipe.release
    if release is None or {"models", "measures", "release"} & set(fields.wrong(recipe)):
        return
    wrong = fields.wrong(release)
    if "candidates" not in wrong:
        for index, candidate in enumerate(release.candidates):
            if not fields.is_right(candidate):
                continue
            path, first = f"release.candidates[{index}]", release.candidates.index(candidate)
            if first < index:
                yield path, f"{candidate.name} is candidates[{first}] again; keep one of them"
            elif candidate not in recipe.models:
                yield path, f"{candidate.name} is not among the models, so it isn't measured; add it to models"
    if "gates" in wrong:
        return
    measures = {measure.name: measure for measure in recipe.measures if fields.is_right(measure)}
    if len(measures) < len(recipe.measures):
        return
    candidates = () if "candidates" in wrong else release.candidates
    for index, gate in enumerate(release.gates):
        if fields.is_right(gate):
            for name, reason in _of_gate(gate, measures, recipe, candidates, fields):
                yield f"release.gates[{index}].{name}", reason


def _of_gate(
    gate: Gate, measures: Mapping[str, Measure], recipe: Recipe, candidates: tuple[Model, ...], fields: Fields
) -> Findings:
    if not isinstance(gate, Recovery | Score | Speed):
        return
    measure = measures.get(gate.measure)
    if measure is None:
        yield "measure", f"{gate.measure!r} is no measure of the recipe{suggestion(gate.measure, list(measures))}"
    elif isinstance(gate, Speed) and not isinstance(measure, TokenMeasure):
        what = f"{gate.measure!r} is {type(measure).__name__}, whose tokens aren't counted"
        yield "measure", f"{what}; {_instead(TokenMeasure, measures)}"
    elif isinstance(gate, Recovery):
        reasons = list(_no_recovery(gate, measure, measures, recipe.models[0]))
        yield from reasons or _not_taken(measure, (recipe.models[0], *candidates), fields)
        if isinstance(measure, Task):
            yield from _other_tasks(recipe.models[0], candidates)
        if isinstance(measure, TokenMeasure):
            yield from _incomparable(recipe.models[0], candidates, fields)
    elif isinstance(gate, Score):
        yield from _not_taken(measure, candidates, fields)
        yield from _unknown_number(gate, measure, candidates, fields)


def _other_tasks(reference: Model, candidates: tuple[Model, ...]) -> Findings:
    """Recoveries are of the same examples."""
    for candidate in candidates:
        if candidate.task is not None and reference.task is not None and candidate.task != reference.task:
            yield (
                "measure",
                f"{candidate.name} has learned {candidate.task.name}, and {reference.name}, the first of the models, "
                f"{reference.task.name}: what the one keeps of the other can't be said; use gate.Score",
            )


def _instead(cls: type[Measure], measures: Mapping[str, Measure]) -> str:
    named = [name for name, measure in measures.items() if isinstance(measure, cls)]
    return f"use {' or '.join(map(repr, named))}" if named else "add Perplexity() to measures"


def _no_recovery(gate: Recovery, measure: Measure, measures: Mapping[str, Measure], reference: Model) -> Findings:
    """Why there is no recovery with an interval of what a gate asks for."""
    match measure:
        case Perplexity() if gate.number is not None:
            reason = "and of Perplexity it is the perplexities that a recovery compares; leave number out"
            yield "number", f"is {gate.number!r}, {reason}, or use gate.Score"
        case Perplexity():
            return
        case LMEval() if gate.number is None:
            what = f"{measure.tasks[0]}_acc"
            yield "number", f"is missing, and {gate.measure!r} is LMEval; add one of a metric, such as number={what!r}"
        case LMEval():
            # Its files know the metrics.
            return
        case PseudoPerplexity() | CustomScores() | Task():
            known = _scores(measure, reference)
            if not known:
                return
            if gate.number is None:
                says = " or ".join(f"number={name!r}" for name in known)
                yield "number", f"is missing, and {gate.measure!r} is {type(measure).__name__}; add {says}"
            elif gate.number not in known:
                what = f"{gate.number!r} is no number that {type(measure).__name__} gives of each document"
                yield "number", f"{what}{suggestion(gate.number, known)}"
        case _:
            what = f"{gate.measure!r} is {type(measure).__name__}, which measures no documents one by one"
            unsure = "so nothing says how sure a recovery would be"
            yield "measure", f"{what}, {unsure}; use gate.Score for a number of it, or {_instead(Perplexity, measures)}"


def _scores(measure: PseudoPerplexity | CustomScores | Task, model: Model) -> list[str]:
    """The numbers that a measure gives of each document of a model; none if that isn't known."""
    if isinstance(measure, Task):
        return list(measure.scores_of(model.task)) if model.task is not None else []
    return ["pseudo_perplexity"] if isinstance(measure, PseudoPerplexity) else list(measure.better)


def _not_taken(measure: Measure, models: Sequence[Model], fields: Fields) -> Findings:
    for model in models:
        if fields.is_right(model) and not measure.is_of(model):
            yield "measure", f"{measure.name!r} isn't taken of {model.name}, which the gate looks at; use another"
            return


def _incomparable(reference: Model, candidates: tuple[Model, ...], fields: Fields) -> Findings:
    """Masked tokens compare only where the same ones are masked."""
    if not fields.has(reference, "objective"):
        return
    for candidate in candidates:
        if not fields.has(candidate, "objective"):
            continue
        both = f"{candidate.name} and {reference.name}, the first of the models, don't predict the same tokens"
        if not candidate.objective.is_masked and not reference.objective.is_masked:
            continue
        if candidate.objective != reference.objective:
            objectives = f"objectives are {candidate.objective} and {reference.objective}"
            yield "measure", f"{both}: {objectives}; release one by gate.Score"
        elif not all(fields.has(model, "vocabulary") for model in (candidate, reference)):
            continue
        elif candidate.vocabulary != reference.vocabulary:
            tokenizers = f"tokenizers are {candidate.vocabulary.name} and {reference.vocabulary.name}"
            yield "measure", f"{both}: {tokenizers}; release one by gate.Score"


def _unknown_number(gate: Score, measure: Measure, candidates: tuple[Model, ...], fields: Fields) -> Findings:
    for candidate in candidates:
        if not fields.is_right(candidate) or not measure.is_of(candidate):
            continue
        numbers = _numbers(measure, candidate) if fields.has(candidate, "objective") else None
        if numbers is not None and gate.number not in numbers:
            yield (
                "number",
                f"{gate.number!r} is no number that {type(measure).__name__} gives of {candidate.name}"
                f"{suggestion(gate.number, list(numbers))}",
            )
            return


def _numbers(measure: Measure, model: Model) -> tuple[str, ...] | None:
    """The numbers that a measure gives of a model; None if that isn't known."""
    match measure:
        case PseudoPerplexity():
            return ("pseudo_perplexity",)
        case Perplexity() if model.objective.is_masked:
            return ("masked_perplexity", "masked_accuracy_percent")
        case Perplexity():
            return ("perplexity", "bits_per_byte")
        case CustomScores():
            return tuple(measure.better)
        case Task() if model.task is not None:
            return (*measure.scores_of(model.task), *model.task.numbers)
        case LayerErrors():
            return ("layer_error_percent", "worst_layer_error_percent")
        case Samples():
            return ()
    return None
