"""A recipe in which models that were made elsewhere are what their files say."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path

from llmrecipe import layout, origins
from llmrecipe.errors import Violation
from llmrecipe.pretrained.place import Missing, locate
from llmrecipe.pretrained.reading import read
from llmrecipe.recipe import checks, model_checks, names
from llmrecipe.recipe.evolve import evolve
from llmrecipe.recipe.kinds import Model
from llmrecipe.recipe.model import PretrainedModel, Trained
from llmrecipe.recipe.rebuilding import rebuilt
from llmrecipe.recipe.recipe import Recipe
from llmrecipe.recipe.rules import Fields
from llmrecipe.recipe.schema import Word
from llmrecipe.recipe.tokenizer import PretrainedTokenizer, TrainedTokenizer


def completed(recipe: Recipe, root: Path, planned: Collection[str]) -> tuple[Recipe, list[Violation]]:
    """The recipe with the network and the objective of every `PretrainedModel`, and what is wrong with each.

    Args:
        recipe: the recipe, whose fields may be wrong; a model with a wrong field stays as it is.
        root: the project's folder.
        planned: what the project's stages make, as patterns of paths relative to it: a model that isn't there yet may
            be in one of these, or be made by the recipe, and stays as it is.
    """
    fields = Fields()
    words = list(names.words(recipe, checks.path_of(recipe)))
    makers = {f"{layout.ARTIFACTS}/{name}": model for name, model in _made_here(words)}
    found: list[Violation] = []
    known: list[tuple[Word, Word]] = []
    for path, word in words:
        if not isinstance(word, PretrainedModel) or fields.wrong(word):
            continue
        if not any(model_checks.rules.broken(word, path, fields)):
            full, wrong = _full(word, root, planned, makers)
            found += [Violation(f"{path}.{field}", reason) for field, reason in wrong]
            known.append((word, full))

    def change(word: Word) -> Word:
        if not isinstance(word, PretrainedModel):
            return word
        return next((full for given, full in known if given == word), word)

    return (rebuilt(recipe, change) if known else recipe), found


def made_by(recipe: Recipe) -> Iterator[str]:
    """The folders, relative to the project, in which a recipe's stages leave models, texts and tokenizers."""
    fields = Fields()
    for _, word in names.words(recipe, checks.path_of(recipe)):
        made = [word, word.vocabulary] if isinstance(word, Trained) and fields.has(word, "vocabulary") else [word]
        for each in made:
            # A tokenizer without a text of its own is that of a model, with the model's.
            is_open = isinstance(each, TrainedTokenizer) and each.text is None
            name = names.name_of(each) if isinstance(each, names.SHARED) and not is_open else None
            if name is not None and not isinstance(each, PretrainedModel | PretrainedTokenizer):
                yield f"{layout.ARTIFACTS}/{name}"


def _made_here(words: Iterable[tuple[str, Word]]) -> Iterator[tuple[str, Model]]:
    """Models that are made of others here, by name."""
    for _, word in words:
        name = names.name_of(word)
        if isinstance(word, Model) and not isinstance(word, PretrainedModel) and name is not None:
            yield name, word


def _full(
    model: PretrainedModel, root: Path, planned: Collection[str], makers: Mapping[str, Model]
) -> tuple[PretrainedModel, list[tuple[str, str]]]:
    """A model as its files say, and what is wrong with it, by field."""
    maker = next((makers[folder] for folder in makers if _is_in(model, [folder])), None)
    if maker is not None and any(word == model for _, word in names.words(maker, "")):
        reason = f"{model.path!r} is what the stages of {maker.name} make, which needs this first"
        return model, [("path", f"{reason}; copy it to a folder of your own")]
    try:
        place = locate(model, root)
    except Missing as error:
        return model, [] if maker is not None or _is_in(model, planned) else [(error.field, error.reason)]
    # The weights of one of the Hub may be fetched later.
    reading = read(model, place, is_whole=model.hub is None)
    return evolve(model, network=reading.network, objective=reading.objective), list(reading.faults)


def _is_in(model: PretrainedModel, patterns: Iterable[str]) -> bool:
    """Whether the project's folder or file of a model is one of these, or in one."""
    if model.path is None or model.package is not None:
        return False
    return origins.is_made(model.path, patterns)
