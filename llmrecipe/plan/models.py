"""Models to their stages."""

import posixpath
from collections.abc import Mapping
from types import MappingProxyType

from llmrecipe import layout
from llmrecipe.plan.draft import Draft, Products, plans
from llmrecipe.plan.stage import Plot
from llmrecipe.recipe.hessians import Hessians
from llmrecipe.recipe.kinds import Model
from llmrecipe.recipe.model import Calibrated, Checkpoint, PretrainedModel, Quantized, Trained
from llmrecipe.recipe.pruned import Pruned
from llmrecipe.recipe.texts import calibration_text, gathered
from llmrecipe.recipe.tokenized import TokenizedText
from llmrecipe.sections import (
    ExportSection,
    HessiansSection,
    ImportSection,
    PruneSection,
    QuantizeSection,
    Section,
    TrainSection,
)

KEPT = "kept"
"""The folder of the checkpoints that a training keeps, each in one named by its step."""


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
    kept = () if value.training.keep_every is None else (KEPT,)
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
        outs=("checkpoint", "curves.csv", "validation.csv", *kept),
        metrics=("metrics.json",),
        plots=training_plots(layout.folder(value.name, TrainSection.tag)),
    )
    model = _exported(draft, value, train.product("checkpoint"), value)
    return Products({"model": model} | {name: train.product(name) for name in kept})


@plans(Checkpoint)
def checkpoint(draft: Draft, value: Checkpoint) -> Products:
    """A stage that exports what a training has kept on its way."""
    kept = draft.need(value.model).product(KEPT)
    return Products({"model": _exported(draft, value, f"{kept}/{value.step}", value.model)})


@plans(Quantized)
def quantized(draft: Draft, value: Quantized) -> Products:
    """A stage that rounds the weights with llmcompressor."""
    section = QuantizeSection(
        scheme=value.scheme,
        overrides=value.overrides,
        kv_cache=value.kv_cache,
        rotate=value.rotate,
        calibration_samples=value.calibration_samples,
        seed=value.seed,
    )
    hessians = gathered(value)
    return _calibrated(draft, value, section, {} if hessians is None else draft.need(hessians).paths)


@plans(Hessians)
def hessians(draft: Draft, value: Hessians) -> Products:
    """A stage that reads a text with a model, and keeps what quantization needs of it."""
    inputs = {"model": draft.need(value.model).product("model")}
    inputs |= draft.need(TokenizedText(text=value.text, tokenizer=value.model.vocabulary)).paths
    section = HessiansSection(calibration_samples=value.calibration_samples, seed=value.seed)
    stage = draft.stage(owner=value.name, section=section, inputs=inputs, outs=("hessians",))
    return Products({"hessians": stage.product("hessians")})


@plans(Pruned)
def pruned(draft: Draft, value: Pruned) -> Products:
    """A stage that leaves a part of the model out."""
    section = PruneSection(method=value.method, calibration_samples=value.calibration_samples, seed=value.seed)
    return _calibrated(draft, value, section)


def _calibrated(
    draft: Draft, value: Calibrated, section: Section, others: Mapping[str, str] = MappingProxyType({})
) -> Products:
    """What a stage makes of a model and, if it needs one, a text; and of other inputs."""
    inputs = {"model": draft.need(value.model).product("model"), **others}
    text = calibration_text(value)
    if text is not None:
        inputs |= draft.need(TokenizedText(text=text, tokenizer=value.vocabulary)).paths
    stage = draft.stage(owner=value.name, section=section, inputs=inputs, outs=("model",), metrics=("metrics.json",))
    return Products({"model": stage.product("model")})


def _exported(draft: Draft, value: Model, checkpoint: str, trained: Trained) -> str:
    """The path of a model that a stage makes of a checkpoint of a training."""
    inputs = {"checkpoint": checkpoint, "tokenizer": draft.need(trained.vocabulary).product("tokenizer")}
    if isinstance(trained.start, Model):
        inputs["start"] = draft.need(trained.start).product("model")
    return draft.stage(owner=value.name, section=ExportSection(), inputs=inputs, outs=("model",)).product("model")


def training_plots(folder: str) -> tuple[Plot, ...]:
    """What is drawn of a training whose stage has this folder."""
    curves = f"{folder}/curves.csv"
    return (
        Plot(title="loss", curves={curves: "loss", f"{folder}/validation.csv": "validation_loss"}),
        Plot(title="learning rate", curves={curves: "learning_rate"}),
        Plot(title="gradient norm", curves={curves: "grad_norm"}),
    )
