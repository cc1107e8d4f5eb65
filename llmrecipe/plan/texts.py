"""Texts, tokenizers and texts in tokens to their stages."""

import posixpath
from collections.abc import Iterable

from llmrecipe import origins
from llmrecipe.plan.draft import Draft, Products, plans
from llmrecipe.recipe import augment
from llmrecipe.recipe.corpus import Corpus, Mixture
from llmrecipe.recipe.deduplication import Decontaminate
from llmrecipe.recipe.evolve import evolve
from llmrecipe.recipe.kinds import Augmenter, Cleaner, Model, Source, Text
from llmrecipe.recipe.source import Files, PythonStdlib
from llmrecipe.recipe.tokenized import TokenizedText
from llmrecipe.recipe.tokenizer import PretrainedTokenizer, TrainedTokenizer
from llmrecipe.sections import AugmentSection, MixSection, PrepareSection, TokenizerSection, TokenizeSection


@plans(Corpus)
def corpus(draft: Draft, value: Corpus) -> Products:
    """A stage that prepares the documents, and one that augments them if it is asked for."""
    heldout = _pinned(value.heldout) if isinstance(value.heldout, Source) else value.heldout
    documents = draft.stage(
        owner=value.name,
        section=PrepareSection(
            source=_pinned(value.source),
            clean=tuple(map(_pinned_cleaner, value.clean)),
            heldout=heldout,
            shards=value.shards,
        ),
        inputs=_watched(value),
        outs=("documents", "dropped.jsonl"),
        metrics=("metrics.json",),
    )
    if value.augment:
        augmenters = tuple(_with_folders(draft, augmenter) for augmenter in value.augment)
        named = [model for augmenter in augmenters for model in augment.models(augmenter).values()]
        folders = dict.fromkeys(posixpath.normpath(model) for model in named if isinstance(model, str))
        documents = draft.stage(
            owner=value.name,
            section=AugmentSection(augment=augmenters),
            inputs={"documents": documents.product("documents")}
            | {f"model{index}": folder for index, folder in enumerate(folders)},
            outs=("documents", "examples.jsonl"),
            metrics=("metrics.json",),
        )
    return Products({"documents": documents.product("documents")})


@plans(TrainedTokenizer)
def trained_tokenizer(draft: Draft, value: TrainedTokenizer) -> Products:
    """A stage that learns from the training documents of a text."""
    inputs = {} if value.text is None else by_corpus(value.text, "documents", draft)
    section = TokenizerSection(tokenizer=evolve(value, text=None, name=None))
    stage = draft.stage(owner=value.name, section=section, inputs=inputs, outs=("tokenizer",))
    return Products({"tokenizer": stage.product("tokenizer")})


@plans(PretrainedTokenizer)
def pretrained_tokenizer(draft: Draft, value: PretrainedTokenizer) -> Products:
    """A stage that takes over a tokenizer from a folder; a model that was made elsewhere has brought its own."""
    made = draft.need(value.model) if value.model is not None else None
    if made is not None and value.given_name is None and "tokenizer" in made.paths:
        return Products({"tokenizer": made.product("tokenizer")})
    folder = value.path if made is None else made.product("model")
    stage = draft.stage(
        owner=value.name,
        section=TokenizerSection(tokenizer=evolve(value, path=folder, model=None, name=None)),
        inputs={"source": posixpath.normpath(folder or "")},
        outs=("tokenizer",),
    )
    return Products({"tokenizer": stage.product("tokenizer")})


@plans(TokenizedText)
def tokenized_text(draft: Draft, value: TokenizedText) -> Products:
    """A stage for each corpus, and one that mixes them; the products are the roles in which other stages read them."""
    tokenizer = draft.need(value.tokenizer).product("tokenizer")
    if isinstance(value.text, Mixture):
        return _mixed(draft, value, value.text)
    stage = draft.stage(
        owner=value.name,
        section=TokenizeSection(),
        inputs={"documents": draft.need(value.text).product("documents"), "tokenizer": tokenizer},
        outs=("tokens",),
        metrics=("metrics.json",),
    )
    return Products({"tokens": stage.product("tokens")})


def by_corpus(text: Text, role: str, draft: Draft) -> dict[str, str]:
    """The product `role` of each corpus of a text: `documents`, or `documents.web` and `documents.books`."""
    if isinstance(text, Mixture):
        return {f"{role}.{part.corpus.name}": draft.need(part.corpus).product(role) for part in text.parts}
    return {role: draft.need(text).product(role)}


def _mixed(draft: Draft, value: TokenizedText, mixture: Mixture) -> Products:
    tokens = {
        f"tokens.{part.corpus.name}": draft.need(TokenizedText(text=part.corpus, tokenizer=value.tokenizer)).product(
            "tokens"
        )
        for part in mixture.parts
    }
    stage = draft.stage(
        owner=value.name,
        section=MixSection(shares=tuple(part.weight for part in mixture.parts)),
        inputs=tokens,
        outs=("mixture",),
    )
    return Products({"mixture": stage.product("mixture"), **tokens})


def _watched(corpus: Corpus) -> dict[str, str]:
    """What the stage reads, by role: the source, held-out text, and the evaluation sets that cleaners compare with."""
    sources = {
        "source": [corpus.source],
        "heldout": [corpus.heldout] if isinstance(corpus.heldout, Source) else [],
        "evaluation": list(corpus.evaluation_sets().values()),
    }
    inputs: dict[str, str] = {}
    for role, each in sources.items():
        # DVC takes a path once.
        new = [path for path in _source_paths(each) if path not in inputs.values()]
        inputs |= {f"{role}{index}": path for index, path in enumerate(new)}
    return inputs


def _source_paths(sources: Iterable[Source]) -> list[str]:
    """What to watch for changes: a named file, and the folder that a pattern searches, so new files count."""
    paths = [path for source in sources if isinstance(source, Files) for path in source.paths]
    return list(dict.fromkeys(origins.watched(path) for path in paths if not origins.is_url(path)))


def _pinned(source: Source) -> Source:
    """The source with the Python that plans, where its text is that Python's own."""
    if isinstance(source, PythonStdlib) and source.version is None:
        return evolve(source, version=origins.python_version())
    return source


def _pinned_cleaner(cleaner: Cleaner) -> Cleaner:
    return (
        evolve(cleaner, against=tuple(map(_pinned, cleaner.against))) if isinstance(cleaner, Decontaminate) else cleaner
    )


def _with_folders(draft: Draft, augmenter: Augmenter) -> Augmenter:
    """The augmenter with the folders of models that are made here, in place of the models."""
    made = {name: model for name, model in augment.models(augmenter).items() if isinstance(model, Model)}
    return evolve(augmenter, **{name: draft.need(model).product("model") for name, model in made.items()})
