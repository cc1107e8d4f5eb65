"""Models to their stages."""

import posixpath

from llmrecipe import layout
from llmrecipe.plan.draft import Draft, Products, plans
from llmrecipe.plan.stage import Plot
from llmrecipe.recipe.kinds import Model
from llmrecipe.recipe.model import PretrainedModel, Quantized, Trained
from llmrecipe.recipe.texts import calibration_text
from llmrecipe.recipe.tokenized import TokenizedText
from llmrecipe.sections import ExportSection, ImportSection, QuantizeSection, TrainSection


@plans(PretrainedModel)
def pretrained(draft: Draft, value: PretrainedModel) -> Products:
    """A stage that verifies somebody's model and says what it is; its tokenizer is taken from it as well."""
    is_in_project = value.path is not None and value.package is None
    stage = draft.stage(
        owner=value.name,
        section=ImportSection(model=value),
        inputs={"source": posixpath.normpath(value.path)} if is_in_project and value.path else {},
        outs=("model", "tokenizer"),
    )
    return Products({name: stage.product(name) for name in ("model", "tokenizer")})


@plans(Trained)
def trained(draft: Draft, value: Trained) -> Products:
    """A stage that trains with nanotron, and one that exports to transformers."""
    tokenizer = draft.need(value.vocabulary).product("tokenizer")
    inputs = dict(draft.need(TokenizedText(text=value.text, tokenizer=value.vocabulary)).paths)
    if isinstance(value.start, Model):
        inputs["start"] = draft.need(value.start).product("model")
    if value.resize_embeddings:
        inputs["tokenizer"] = tokenizer
    train = draft.stage(
        owner=value.name,
        section=TrainSection(
            network=None if isinstance(value.start, Model) else value.start,
            objective=value.objective,
            training=value.training,
            parallelism=value.parallelism,
            resize_embeddings=value.resize_embeddings,
        ),
        inputs=inputs,
        outs=("checkpoint", "curves.csv", "validation.csv"),
        metrics=("metrics.json",),
        plots=_plots(layout.folder(value.name, TrainSection.tag)),
    )
    export = draft.stage(
        owner=value.name,
        section=ExportSection(),
        inputs={"checkpoint": train.product("checkpoint"), "tokenizer": tokenizer}
        | {role: path for role, path in inputs.items() if role == "start"},
        outs=("model",),
    )
    return Products({"model": export.product("model")})


@plans(Quantized)
def quantized(draft: Draft, value: Quantized) -> Products:
    """A stage that rounds the weights with llmcompressor."""
    tokens = draft.need(TokenizedText(text=calibration_text(value), tokenizer=value.vocabulary))
    stage = draft.stage(
        owner=value.name,
        section=QuantizeSection(scheme=value.scheme, calibration_samples=value.calibration_samples, seed=value.seed),
        inputs={"model": draft.need(value.model).product("model"), **tokens.paths},
        outs=("model",),
        metrics=("metrics.json",),
    )
    return Products({"model": stage.product("model")})


def _plots(folder: str) -> tuple[Plot, ...]:
    curves = f"{folder}/curves.csv"
    return (
        Plot(title="loss", curves={curves: "loss", f"{folder}/validation.csv": "validation_loss"}),
        Plot(title="learning rate", curves={curves: "learning_rate"}),
        Plot(title="gradient norm", curves={curves: "grad_norm"}),
    )
