"""Recipes to their stages: what is measured, and the comparison."""

import posixpath
from collections.abc import Mapping

from llmrecipe.plan.draft import Draft, Products, plans
from llmrecipe.plan.stage import Stage
from llmrecipe.recipe.gate import Speed
from llmrecipe.recipe.measure import DOCUMENTS, SCORES
from llmrecipe.recipe.measurement import Measurement
from llmrecipe.recipe.recipe import Recipe
from llmrecipe.recipe.release import Release
from llmrecipe.recipe.texts import measured_text
from llmrecipe.recipe.tokenized import TokenizedText
from llmrecipe.sections import FRONTIER, MeasureSection, ReleaseSection, ReportSection


@plans(Measurement)
def measurement(draft: Draft, value: Measurement) -> Products:
    """A stage that measures one model by one measure on one text."""
    inputs = {"model": draft.need(value.model).product("model")}
    if value.measure.reads_parent:
        inputs["parent"] = draft.need(value.model.parents[0]).product("model")
    if value.measure.reads_examples and value.model.task is not None:
        inputs |= draft.need(value.model.task).paths
    if value.text is not None:
        inputs |= draft.need(TokenizedText(text=value.text, tokenizer=value.model.vocabulary)).paths
    inputs |= {role: posixpath.normpath(path) for role, path in value.measure.inputs.items()}
    stage = draft.stage(
        owner=value.model.name,
        label=value.measure.name,
        section=MeasureSection(measure=value.measure.on_inputs),
        inputs=inputs,
        outs=value.measure.files,
        metrics=("metrics.json",),
        pictures=value.measure.pictures,
    )
    return Products({name: stage.product(name) for name in (*value.measure.files, "metrics.json")})


@plans(Recipe)
def recipe(draft: Draft, value: Recipe) -> Products:
    """A stage that compares the models, and one that releases one of them if it is asked for.

    The last of them depends on all others of the recipe.
    """
    inputs: dict[str, str] = {}
    for model in value.models:
        inputs[f"{model.name}.model"] = draft.need(model).product("model")
        for measure in (each for each in value.measures if each.is_of(model)):
            made = draft.need(Measurement.of(model, measure, measured_text(value, measure)))
            inputs[f"{model.name}.{measure.name}"] = made.product("metrics.json")
            for role, file in (("documents", DOCUMENTS), ("scores", SCORES)):
                if file in made.paths:
                    inputs[f"{model.name}.{measure.name}.{role}"] = made.product(file)
    stage = draft.stage(
        owner=value.name,
        section=ReportSection(),
        inputs=inputs,
        metrics=("metrics.json",),
        pictures=(FRONTIER,),
        ends_recipe=value.release is None,
    )
    products = {"metrics.json": stage.product("metrics.json")}
    if value.release is not None:
        released = _release(draft, value, value.release, inputs | {"comparison": products["metrics.json"]})
        products["model"] = released.product("model")
    return Products(products)


def _release(draft: Draft, value: Recipe, release: Release, known: Mapping[str, str]) -> Stage:
    """A stage that copies the first candidate which passes; `known` are the comparison and what that has read."""
    names = tuple(candidate.name for candidate in release.candidates)
    # The times of a run are found by what it has left.
    timed = dict.fromkeys(gate.measure for gate in release.gates if isinstance(gate, Speed))
    roles = [f"{name}.{what}" for name in names for what in ("model", *timed)]
    return draft.stage(
        owner=value.name,
        section=ReleaseSection(candidates=names, reference=value.models[0].name, gates=release.gates),
        inputs={role: known[role] for role in ("comparison", *roles)},
        outs=("model",),
        metrics=("metrics.json",),
        ends_recipe=True,
    )
