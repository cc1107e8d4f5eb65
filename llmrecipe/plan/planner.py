"""Recipes to the stages that carry them out. Pure: reads and writes nothing."""

import posixpath
from collections.abc import Iterable, Iterator, Sequence

import attrs

from llmrecipe import origins
from llmrecipe.errors import PlanError
from llmrecipe.plan.pipeline import Pipeline
from llmrecipe.plan.stage import Plot, Stage
from llmrecipe.recipe import augmentation
from llmrecipe.recipe.corpus import Corpus
from llmrecipe.recipe.recipe import Recipe
from llmrecipe.recipe.source import Files, Source
from llmrecipe.recipe.tokenizer import PretrainedTokenizer
from llmrecipe.sections import (
    AugmentSection,
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
    stages = [stage for corpus, _ in users.values() for stage in _corpus_stages(corpus)]
    for recipe in recipes:
        stages.extend(_recipe_stages(recipe))
    # A corpus may have the name of a recipe; they then share runtime choices, the recipe's.
    runtimes = {name: user.runtime for name, (_, user) in users.items()}
    for recipe in recipes:
        runtimes |= dict.fromkeys([recipe.name, *_tokenize_owners(recipe).values()], recipe.runtime)
    return Pipeline(stages=tuple(stages), runtimes=runtimes)


def _refuse_same_name(recipes: Sequence[Recipe]) -> None:
    names = [recipe.name for recipe in recipes]
    for name in names:
        if names.count(name) > 1:
            raise PlanError(f"two recipes are named {name!r}; a recipe's name is the name of its stages and its folder")


def _first_users(recipes: Sequence[Recipe]) -> dict[str, tuple[Corpus, Recipe]]:
    """By name, every corpus and the first recipe that uses it."""
    users: dict[str, tuple[Corpus, Recipe]] = {}
    for recipe in recipes:
        for path, corpus in recipe.corpora():
            known, user = users.setdefault(corpus.name, (corpus, recipe))
            if corpus != known:
                names = [field.name for field in attrs.fields(Corpus)]
                differing = [name for name in names if getattr(corpus, name) != getattr(known, name)]
                raise PlanError(
                    f"{recipe.name}.{path}: named {corpus.name!r} like the corpus of {user.name!r}, but differs "
                    f"from it in {', '.join(differing)}; give it another name or the same content"
                )
    return users


def _tokenize_owners(recipe: Recipe) -> dict[str, str]:
    """By corpus name, whom the stage that tokenizes it belongs to: each part of a mixture has one of its own."""
    if isinstance(recipe.corpus, Corpus):
        return {recipe.corpus.name: recipe.name}
    return {corpus.name: f"{recipe.name}-{corpus.name}" for _, corpus in recipe.corpora()}


def _roles(recipe: Recipe, role: str, paths: Iterable[str]) -> dict[str, str]:
    """The inputs in a role that each corpus fills: `tokens`, or `tokens.web` and `tokens.books` in a mixture."""
    if isinstance(recipe.corpus, Corpus):
        return dict(zip([role], paths, strict=True))
    return {f"{role}.{corpus.name}": path for (_, corpus), path in zip(recipe.corpora(), paths, strict=True)}


def _recipe_stages(recipe: Recipe) -> Iterator[Stage]:
    owner = recipe.name
    documents = {
        corpus.name: f"artifacts/{corpus.name}/{'augment' if corpus.augment else 'prepare'}/documents"
        for _, corpus in recipe.corpora()
    }
    trained = not isinstance(recipe.tokenizer, PretrainedTokenizer)
    tokenizer = Stage(
        kind="tokenizer",
        owner=owner,
        section=TokenizerSection(tokenizer=recipe.tokenizer),
        inputs=_roles(recipe, "documents", documents.values()) if trained else {"source": recipe.tokenizer.path},
        outs=("tokenizer",),
    )
    tokenize = [
        Stage(
            kind="tokenize",
            owner=tokenize_owner,
            section=TokenizeSection(),
            inputs={"documents": documents[corpus], "tokenizer": tokenizer.products[0]},
            outs=("tokens",),
            metrics=("metrics.json",),
        )
        for corpus, tokenize_owner in _tokenize_owners(recipe).items()
    ]
    tokens = _roles(recipe, "tokens", [stage.products[0] for stage in tokenize])
    weights = tuple(float(part.weight) for part in recipe.corpus.parts)
    pretrain = _pretrain(recipe, tokens, weights)
    export = Stage(
        kind="export",
        owner=owner,
        section=ExportSection(),
        inputs={"checkpoint": pretrain.products[0], "tokenizer": tokenizer.products[0]},
        outs=("model",),
    )
    yield from (tokenizer, *tokenize, pretrain, export)
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
                weights=weights,
            ),
            inputs={"model": models["dense"], **tokens},
            outs=("model",),
            metrics=("metrics.json",),
        )
        models["quantized"] = quantize.products[0]
        yield quantize
    yield Stage(
        kind="evaluate",
        owner=owner,
        section=EvaluateSection(measures=recipe.evaluation, objective=recipe.objective, weights=weights),
        inputs={**tokens, **models},
        outs=("samples.json",),
        metrics=("metrics.json",),
    )


def _corpus_stages(corpus: Corpus) -> Iterator[Stage]:
    prepare = _prepare(corpus)
    yield prepare
    if corpus.augment:
        named = [model for augmenter in corpus.augment for model in augmentation.models(augmenter).values()]
        folders = dict.fromkeys(posixpath.normpath(model) for model in named if isinstance(model, str))
        yield Stage(
            kind="augment",
            owner=corpus.name,
            section=AugmentSection(augment=corpus.augment),
            inputs={"documents": prepare.products[0]}
            | {f"model{index}": folder for index, folder in enumerate(folders)},
            outs=("documents", "examples.jsonl"),
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
        inputs=_read_by(corpus),
        outs=("documents", "dropped.jsonl"),
        metrics=("metrics.json",),
    )


def _read_by(corpus: Corpus) -> dict[str, str]:
    """What the stage reads, by role: the source, and the evaluation sets that cleaners compare it with."""
    source = _source_paths([corpus.source])
    # DVC takes a path once.
    evaluation = [path for path in _source_paths(corpus.evaluation_sets().values()) if path not in source]
    roles = {"source": source, "evaluation": evaluation}
    return {f"{role}{index}": path for role, paths in roles.items() for index, path in enumerate(paths)}


def _source_paths(sources: Iterable[Source]) -> list[str]:
    """What to watch for changes: a named file, and the folder that a pattern searches, so that new files count."""
    paths = [path for source in sources if isinstance(source, Files) for path in source.paths]
    return list(dict.fromkeys(origins.watched(path) for path in paths if not origins.is_url(path)))


def _pretrain(recipe: Recipe, tokens: dict[str, str], weights: tuple[float, ...]) -> Stage:
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
            weights=weights,
        ),
        inputs=tokens,
        outs=("checkpoint", "curves.csv", "validation.csv"),
        metrics=("metrics.json",),
        plots=(
            Plot(title="loss", curves={curves: "loss", f"{folder}/validation.csv": "validation_loss"}),
            Plot(title="learning rate", curves={curves: "learning_rate"}),
            Plot(title="gradient norm", curves={curves: "grad_norm"}),
            Plot(title="throughput", curves={f"{folder}.throughput.csv": "tokens_per_second"}),
        ),
    )
