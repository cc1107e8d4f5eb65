"""Tasks and the models that learn them to their stages."""

import posixpath

from llmrecipe import layout
from llmrecipe.plan.draft import Draft, Products, plans
from llmrecipe.plan.models import training_plots
from llmrecipe.plan.stage import Plot
from llmrecipe.recipe.fine_tuned import FineTuned
from llmrecipe.recipe.kinds import SPLITS, Task
from llmrecipe.sections import ExamplesSection, FineTuneSection


@plans(Task)
def task(draft: Draft, value: Task) -> Products:
    """A stage that reads the examples and checks them."""
    files = {split: file for split in SPLITS if isinstance(file := getattr(value, split), str)}
    stage = draft.stage(
        owner=value.name,
        section=ExamplesSection(task=value),
        inputs={split: posixpath.normpath(file) for split, file in files.items()},
        outs=("examples",),
        metrics=("metrics.json",),
    )
    return Products({"examples": stage.product("examples")})


@plans(FineTuned)
def fine_tuned(draft: Draft, value: FineTuned) -> Products:
    """A stage that trains by transformers' Trainer."""
    section = FineTuneSection(task=value.task.on_examples, training=value.training, parallelism=value.parallelism)
    folder = layout.folder(value.name, section.tag)
    score = Plot(title="validation score", curves={f"{folder}/validation.csv": "validation_score"})
    adapter = value.training.adapter
    stage = draft.stage(
        owner=value.name,
        section=section,
        inputs={"start": draft.need(value.start).product("model"), **draft.need(value.task).paths},
        outs=("model", *(["adapter"] if adapter and adapter.keep else []), "curves.csv", "validation.csv"),
        metrics=("metrics.json",),
        plots=(*training_plots(folder), score),
    )
    return Products({"model": stage.product("model")})
