"""Values that have names: a name stands for one value, in one recipe and in all that are planned together."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import attrs

from llmrecipe.errors import Violation
from llmrecipe.recipe.distilled import Distilled
from llmrecipe.recipe.hessians import Hessians
from llmrecipe.recipe.kinds import Model, Task, Text, Tokenizer
from llmrecipe.recipe.measure import Measure
from llmrecipe.recipe.measurement import Measurement
from llmrecipe.recipe.model import Calibrated, PretrainedModel, Quantized
from llmrecipe.recipe.predictions import Predictions
from llmrecipe.recipe.recipe import Recipe
from llmrecipe.recipe.schema import Word, as_written, parts
from llmrecipe.recipe.texts import calibration_text, distillation_text, gathered, measured_text
from llmrecipe.recipe.tokenized import TokenizedText
from llmrecipe.recipe.tokenizer import TrainedTokenizer

T = TypeVar("T")

SHARED = (Model, Text, Tokenizer, Task)
"""Kinds of values that are made once, wherever they occur."""

_PLANNED = (TokenizedText, Hessians, Predictions, Measurement)
"""Kinds of values whose names are made of those of others."""

_NAMESPACES = (Recipe, *SHARED, *_PLANNED)

_LONGEST = 60
"""Characters of a value that is shown."""


def words(value: Word, path: str) -> Iterator[tuple[str, Word]]:
    """`value` and every word below it, with their paths; a model, text or tokenizer only where it occurs first."""
    seen: set[int] = set()
    known: dict[tuple[type, object], list[Word]] = {}

    def is_known(word: Word) -> bool:
        if id(word) in seen:
            return True
        seen.add(id(word))
        alike = known.setdefault((type(word), name_of(word)), [])
        alike.append(word)
        return word in alike[:-1]

    def below(word: Word, place: str) -> Iterator[tuple[str, Word]]:
        if isinstance(word, SHARED) and is_known(word):
            return
        yield place, word
        for inner, item in parts(word, place):
            yield from below(item, inner)

    return below(value, path)


def named_values(recipe: Recipe) -> Iterator[tuple[str, Any]]:
    """All that a recipe needs by name, each after what it is made from: `(path, value)`.

    These are models with their parents, texts, tokenizers with the text that they are trained on, texts in a
    tokenizer's tokens, stored predictions, measurements, and the recipe itself. A value may come more than once.
    """
    yield from _values(recipe, recipe.name, set())


def namespace(value: Word) -> type[Word]:
    """The class of values that a named value shares its names with."""
    return next(kind for kind in _NAMESPACES if isinstance(value, kind))


def differences(one: Any, other: Any) -> list[str]:
    """What two values differ in, with the paths below them: `start.training.seed: 7 ≠ 8`."""
    return [
        f"{path}: {_brief(left)} ≠ {_brief(right)}".removeprefix(": ")
        for path, left, right in _differing(one, other, into_named=True)
    ]


def clashes(recipes: Iterable[Recipe]) -> Iterator[Violation]:
    """Every name that stands for two values, in one recipe or across several."""
    known: dict[tuple[type, str], list[tuple[str, Any]]] = {}
    for recipe in recipes:
        for path, value in named_values(recipe):
            alike = known.setdefault((namespace(value), value.name), [])
            if any(value is other or value == other for _, other in alike):
                continue
            if alike and not _follows(value, alike[0][1]):
                yield _clash(path, value, *alike[0])
            alike.append((path, value))


def _clash(path: str, value: Any, other_path: str, other: Any) -> Violation:
    found = "; ".join(differences(other, value))
    both = f"{value.name!r} is the name of this and of {other_path}"
    return Violation(path, f"{both}, which differ: {found}; give one of them a name of its own")


def _follows(one: Any, other: Any) -> bool:
    """Whether two values have one name only because what that is made from clashes, which is said there."""
    if not isinstance(one, _PLANNED) and getattr(one, "given_name", one.name) is not None:
        return False
    return not any(True for _ in _differing(one, other, into_named=False))


def _values(word: Word, path: str, seen: set[int]) -> Iterator[tuple[str, Any]]:
    if id(word) in seen:
        return
    if isinstance(word, SHARED):
        seen.add(id(word))
    for place, item in parts(word, path):
        if isinstance(word, Model) and isinstance(item, TrainedTokenizer) and item.text is None:
            item = word.vocabulary
        yield from _values(item, place, seen)
    if isinstance(word, _NAMESPACES):
        yield path, word
    if isinstance(word, PretrainedModel):
        yield path, word.vocabulary
    if isinstance(word, Model):
        for place, text in texts_of(word, path):
            yield from _tokenized(place, text, word)
    if isinstance(word, Distilled | Quantized):
        made = _if_told(lambda: Predictions.of(word) if isinstance(word, Distilled) else gathered(word))
        if made is not None:
            yield path, made
    if isinstance(word, Recipe):
        # Two measures of one name are refused as such.
        first = {measure.name: index for index, measure in reversed(list(enumerate(word.measures)))}
        for index in sorted(first.values()):
            yield from _measurements(f"{path}.measures[{index}]", word.measures[index], word)


def texts_of(model: Model, path: str) -> Iterator[tuple[str, Text]]:
    """The texts that making a model reads, with their paths; `path` is where the model is."""
    if isinstance(model, Calibrated | Distilled):
        text = _if_told(lambda: distillation_text(model) if isinstance(model, Distilled) else calibration_text(model))
        if text is not None:
            yield f"{path}.text", text
    else:
        yield from ((place, item) for place, item in parts(model, path) if isinstance(item, Text))


def measured_text_of(recipe: Recipe, measure: Measure) -> Text | None:
    """The text that a measure reads; None for one that reads none, or where a recipe leaves it open."""
    return _if_told(lambda: measured_text(recipe, measure))


def _measurements(path: str, measure: Measure, recipe: Recipe) -> Iterator[tuple[str, Any]]:
    text = measured_text_of(recipe, measure)
    for model in filter(measure.is_of, recipe.models):
        if text is not None:
            yield from _tokenized(f"{path}.text", text, model)
        yield path, Measurement.of(model, measure, text)


def _tokenized(path: str, text: Text, model: Model) -> Iterator[tuple[str, TokenizedText]]:
    tokenizer = _if_told(lambda: model.vocabulary)
    if tokenizer is not None:
        for part in text.parts:
            yield path, TokenizedText(text=part.corpus, tokenizer=tokenizer)
        yield path, TokenizedText(text=text, tokenizer=tokenizer)


def _if_told(ask: Callable[[], T]) -> T | None:
    """What is asked for; None where a recipe leaves it open, which the checks refuse."""
    try:
        return ask()
    except ValueError:
        return None


def _differing(one: Any, other: Any, *, into_named: bool, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """The innermost values that differ; unless `into_named`, none of values that share a name."""
    if one is other or one == other:
        return
    if path and any(isinstance(one, kind) and isinstance(other, kind) for kind in SHARED):
        if name_of(one) != name_of(other):
            yield path, one, other
            return
        if not into_named:
            return
    if isinstance(one, tuple) and isinstance(other, tuple) and len(one) == len(other):
        for index, (left, right) in enumerate(zip(one, other, strict=True)):
            yield from _differing(left, right, into_named=into_named, path=f"{path}[{index}]")
    elif isinstance(one, Word) and type(one) is type(other):
        for field in attrs.fields(type(one)):
            left, right = getattr(one, field.name), getattr(other, field.name)
            yield from _differing(left, right, into_named=into_named, path=f"{path}.{field.alias}".removeprefix("."))
    else:
        yield path, one, other


def _brief(value: Any) -> str:
    if isinstance(value, tuple):
        shown = f"({', '.join(map(_brief, value))})"
    elif isinstance(value, SHARED):
        shown = f"{type(value).__name__} {name_of(value)!r}"
    else:
        shown = as_written(value)
    return shown if len(shown) <= _LONGEST else f"{shown[: _LONGEST - 1]}…"


def name_of(value: Any) -> str | None:
    """The name of a value; None where it is wrong, or derived from a field that is."""
    try:
        name = value.name
    except (AttributeError, TypeError, ValueError):
        return None
    return name if isinstance(name, str) else None
