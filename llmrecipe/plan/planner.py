"""Recipes to the stages that carry them out. Pure: reads and writes nothing."""

import glob
import itertools
import posixpath
from collections.abc import Iterator, Sequence

import attrs

from llmrecipe.errors import PlanError
from llmrecipe.plan.pipeline import Pipeline
from llmrecipe.plan.stage import Plot, Stage
from llmrecipe.recipe.corpus import Corpus
from llmrecipe.recipe.recipe import Recipe
from llmrecipe.recipe.source import PythonStdlib
from llmrecipe.recipe.tokenizer import PretrainedTokenizer
from llmrecipe.sections import (
    EvaluateSection,
    ExportSection,
    PrepareSection,
    PretrainSection,
    QuantizeSection,
    TokenizerSection,
    TokenizeSection,
)


def plan(recipes: Sequence[Recipe]) -> Pipeline:
    """The stages of `recipes`; recipes that name the same corpus share its stage.

    Raises:
        PlanError: two recipes have one name, one corpus name stands for two contents, or a corpus searches a folder
            that stages write into.
    """
    _refuse_same_name(recipes)
    users = _first_users(recipes)
    stages = [_prepare(recipe.corpus) for recipe in users.values()]
    for recipe in recipes:
        stages.extend(_recipe_stages(recipe))
    # A corpus may have the name of a recipe; they then share runtime choices, the recipe's.
    runtimes = {recipe.corpus.name: recipe.runtime for recipe in users.values()}
    return Pipeline(stages=tuple(stages), runtimes=runtimes | {recipe.name: recipe.runtime for recipe in recipes})


def _refuse_same_name(recipes: Sequence[Recipe]) -> None:
    names = [recipe.name for recipe in recipes]
    for name in names:
        if names.count(name) > 1:
            raise PlanError(f"two recipes are named {name!r}; a recipe's name is the name of its stages and its folder")


def _first_users(recipes: Sequence[Recipe]) -> dict[str, Recipe]:
    """By corpus name, the first recipe that uses the corpus."""
    users: dict[str, Recipe] = {}
    for recipe in recipes:
        first = users.setdefault(recipe.corpus.name, recipe)
        if recipe.corpus != first.corpus:
            names = [field.name for field in attrs.fields(Corpus)]
            differing = [name for name in names if getattr(recipe.corpus, name) != getattr(first.corpus, name)]
            raise PlanError(
                f"{recipe.name}.corpus: named {recipe.corpus.name!r} like the corpus of {first.name!r}, but differs "
                f"from it in {', '.join(differing)}; give it another name or the same content"
            )
    return users


def _recipe_stages(recipe: Recipe) -> Iterator[Stage]:
    owner = recipe.name
    documents = f"artifacts/{recipe.corpus.name}/prepare/documents"
    trained = not isinstance(recipe.tokenizer, PretrainedTokenizer)
    tokenizer = Stage(
        kind="tokenizer",
        owner=owner,
        section=TokenizerSection(tokenizer=recipe.tokenizer),
        inputs={"documents": documents} if trained else {"source": recipe.tokenizer.path},
        outs=("tokenizer",),
    )
    tokenize = Stage(
        kind="tokenize",
        owner=owner,
        section=TokenizeSection(),
        inputs={"documents": documents, "tokenizer": tokenizer.products[0]},
        outs=("tokens",),
        metrics=("metrics.json",),
    )
    tokens = tokenize.products[0]
    pretrain = _pretrain(recipe, tokens)
    export = Stage(
        kind="export",
        owner=owner,
        section=ExportSection(),
        inputs={"checkpoint": pretrain.products[0], "tokenizer": tokenizer.products[0]},
        outs=("model",),
    )
    yield from (tokenizer, tokenize, pretrain, export)
    models = {"dense": export.products[0]}
    for compression in recipe.compression:
        quantize = Stage(
            kind="quantize",
            owner=owner,
            section=QuantizeSection(
                scheme=compression.scheme,
                calibration_samples=compression.calibration_samples,
                sequence_length=recipe.objective.sequence_length,
                seed=compression.seed,
            ),
            inputs={"model": models["dense"], "tokens": tokens},
            outs=("model",),
            metrics=("metrics.json",),
        )
        models["quantized"] = quantize.products[0]
        yield quantize
    yield Stage(
        kind="evaluate",
        owner=owner,
        section=EvaluateSection(measures=recipe.evaluation, sequence_length=recipe.objective.sequence_length),
        inputs={"tokens": tokens, **models},
        outs=("samples.json",),
        metrics=("metrics.json",),
    )


def _prepare(corpus: Corpus) -> Stage:
    return Stage(
        kind="prepare",
        owner=corpus.name,
        section=PrepareSection(
            source=corpus.source,
            clean=corpus.clean,
            heldout_fraction=corpus.heldout_fraction,
            shards=corpus.shards,
        ),
        inputs={f"source{index}": path for index, path in enumerate(_source_paths(corpus))},
        outs=("documents", "dropped.jsonl"),
        metrics=("metrics.json",),
    )


def _source_paths(corpus: Corpus) -> list[str]:
    """What to watch for changes: a named file, and the folder that a pattern searches, so that new files count."""
    if isinstance(corpus.source, PythonStdlib):
        return []
    return list(dict.fromkeys(map(_watched, corpus.source.paths)))


def _watched(pattern: str) -> str:
    fixed = itertools.takewhile(lambda part: not glob.has_magic(part), pattern.split("/"))
    return posixpath.normpath("/".join(fixed))


def _pretrain(recipe: Recipe, tokens: str) -> Stage:
    folder = f"artifacts/{recipe.name}/pretrain"
    curves = f"{folder}/curves.csv"
    return Stage(
        kind="pretrain",
        owner=recipe.name,
        section=PretrainSection(
            model=recipe.model,
            objective=recipe.objective,
            training=recipe.training,
            parallelism=recipe.parallelism,
        ),
        inputs={"tokens": tokens},
        outs=("checkpoint", "curves.csv", "validation.csv"),
        metrics=("metrics.json",),
        plots=(
            Plot(title="loss", curves={curves: "loss", f"{folder}/validation.csv": "validation_loss"}),
            Plot(title="learning rate", curves={curves: "learning_rate"}),
            Plot(title="gradient norm", curves={curves: "grad_norm"}),
            Plot(title="throughput", curves={f"{folder}.throughput.csv": "tokens_per_second"}),
        ),
    )
