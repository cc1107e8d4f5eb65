"""`llmrecipe check`: what is wrong with recipes, before anything is written."""

import argparse
from pathlib import Path

from llmrecipe import dvcfiles
from llmrecipe.cli import outdated
from llmrecipe.cli.listing import named_or_only
from llmrecipe.cli.recipes import add_argument, find_all, refuse_too_few_documents, refuse_unmade
from llmrecipe.cli.render import parameters
from llmrecipe.plan.planner import plan
from llmrecipe.pretrained.rows import rows_for
from llmrecipe.recipe import names
from llmrecipe.recipe.distilled import Distilled
from llmrecipe.recipe.fine_tuned import FineTuned
from llmrecipe.recipe.hessians import Hessians, hessians_bytes
from llmrecipe.recipe.model import PretrainedModel, Trained
from llmrecipe.recipe.quantity import Epochs
from llmrecipe.recipe.recipe import Recipe
from llmrecipe.recipe.rules import Fields


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add `check` to the commands."""
    parser = subparsers.add_parser("check", help="say what is wrong with recipes; write nothing")
    add_argument(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Check every recipe, even after one that is wrong, and then all of them together."""
    root = Path()
    found = find_all(named_or_only(options.recipes), root, dvcfiles.planned_machines(root))
    if found is None:
        return 1
    pipeline = plan([each.recipe for each in found])
    refuse_unmade(pipeline, root)
    references = {each.recipe.name: each.reference for each in found}
    refuse_too_few_documents(pipeline, root, references, references)
    for each in found:
        outdated.warn(each.recipe, each.reference, root)
        print(f"{each.recipe.name}: fine. {_summary(each.recipe)}")
    return 0


def _summary(recipe: Recipe) -> str:
    values = [value for _, value in names.words(recipe, recipe.name)]
    counts = f"{_count(len(recipe.models), 'model')}, {_count(len(recipe.measures), 'measure')}"
    trained = [f"{model.name}: {_facts(model)}" for model in values if isinstance(model, Trained | Distilled)]
    trained += [f"{model.name}: {_tuning(model)}" for model in values if isinstance(model, FineTuned)]
    gathered = {value.name: value for _, value in names.named_values(recipe) if isinstance(value, Hessians)}
    stored = [
        f"{name}: {hessians_bytes(value.model.network) / 1e6:,.0f} MB of Hessians on disk"
        for name, value in gathered.items()
        if Fields().has(value, "model.network")
    ]
    unknown = [
        f"{model.name}: {model.path} isn't there yet, so its network will be known once a stage has made it"
        for model in values
        if isinstance(model, PretrainedModel) and model.given_network is None
    ]
    return "; ".join([counts, *trained, *stored, *unknown])


def _tuning(model: FineTuned) -> str:
    training = model.training
    learns = _size(model)
    if training.adapter is not None and Fields().has(model, "network"):
        learns = f"an adapter of {parameters(training.adapter.num_parameters(model.network))} parameters to {learns}"
    epochs = f"{training.epochs:,g} epoch{'' if training.epochs == 1 else 's'} in steps of"
    return f"{learns}, {epochs} {_count(training.global_batch_size, 'example')}, {_ranks(model)}"


def _facts(model: Trained | Distilled) -> str:
    if not Fields().has(model, "objective"):
        return "its size and its steps will be known once a stage has made what it learns from"
    batch = f"{model.training.global_batch_size * model.objective.sequence_length:,} tokens"
    if isinstance(model.training.duration, Epochs):
        epochs = model.training.duration.count
        length = f"{epochs:,g} epoch{'' if epochs == 1 else 's'} in steps of {batch}, as many as its text will take"
    else:
        length = f"{_count(model.training.num_steps(model.objective.sequence_length), 'step')} of {batch}"
    return ", ".join([_size(model), length, _ranks(model)])


def _size(model: Trained | Distilled | FineTuned) -> str:
    rows = rows_for(model.vocabulary.origin, Path())
    if rows is not None and Fields().has(model, "network"):
        return f"{parameters(model.network.num_parameters(rows))} parameters"
    return "as many parameters as its network and tokenizer will give it"


def _ranks(model: Trained | Distilled | FineTuned) -> str:
    return _count(model.parallelism.world_size, "rank")


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
