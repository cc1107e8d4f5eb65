"""Recipes to their stages: what is measured, and the comparison."""

from llmrecipe.plan.draft import Draft, Products, plans
from llmrecipe.recipe.evolve import evolve
from llmrecipe.recipe.measurement import Measurement
from llmrecipe.recipe.recipe import Recipe
from llmrecipe.recipe.texts import measured_text
from llmrecipe.recipe.tokenized import TokenizedText
from llmrecipe.sections import MeasureSection, ReportSection


@plans(Measurement)
def measurement(draft: Draft, value: Measurement) -> Products:
    """A stage that measures one model by one measure on one text."""
    inputs = {"model": draft.need(value.model).product("model")}
    if value.text is not None:
        inputs |= draft.need(TokenizedText(text=value.text, tokenizer=value.model.vocabulary)).paths
    stage = draft.stage(
        owner=value.model.name,
        label=value.measure.name,
        section=MeasureSection(measure=evolve(value.measure, text=None, name=None)),
        inputs=inputs,
        outs=value.measure.files,
        metrics=("metrics.json",),
    )
    return Products({name: stage.product(name) for name in (*value.measure.files, "metrics.json")})


@plans(Recipe)
def recipe(draft: Draft, value: Recipe) -> Products:
    """A stage that compares the models; it depends on all others of the recipe."""
    inputs: dict[str, str] = {}
    for model in value.models:
        inputs[f"{model.name}.model"] = draft.need(model).product("model")
        for measure in value.measures:
            found = Measurement.of(model, measure, measured_text(value, measure))
            inputs[f"{model.name}.{measure.name}"] = draft.need(found).product("metrics.json")
    stage = draft.stage(owner=value.name, section=ReportSection(), inputs=inputs, metrics=("metrics.json",))
    return Products({"metrics.json": stage.product("metrics.json")})
