"""What was measured of several models, put next to each other."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from llmrecipe import artifacts, cards
from llmrecipe.cards import ModelCard
from llmrecipe.errors import StageError
from llmrecipe.pretrained import elsewhere

Numbers = dict[str, Any]
"""Numbers by name; groups of them are dictionaries again."""

_PERPLEXITIES = ("perplexity", "masked_perplexity")

_LARGEST_RATIO = 2.0**40
"""Of a perplexity to that of a better model, where both have learned something."""

_OWN = {"size_mb", "recovery_percent", "recovery_by"}
"""Numbers that no measure gives."""


@attrs.frozen(kw_only=True)
class MeasuredFolder:
    """A model and what was measured of it."""

    name: str
    """The model's name."""

    card: ModelCard
    """What it is."""

    size_mb: float
    """Size of its weights files, 1 MB = 10^6 bytes."""

    measurements: dict[str, Numbers]
    """What the measures gave, by the measure's name."""


def read(inputs: Mapping[str, Path]) -> list[MeasuredFolder]:
    """The models among a stage's inputs, in their order: folders `NAME.model`, and JSON files `NAME.MEASURE`.

    Raises:
        StageError: a folder is no whole model.
    """
    for directory in models_of(inputs).values():
        artifacts.open_artifact(directory, "model")
    return [
        MeasuredFolder(
            name=name,
            card=cards.read(directory, ModelCard),
            size_mb=elsewhere.size_of(directory) / 1e6,
            measurements={
                role.removeprefix(f"{name}."): artifacts.read_json(path)
                for role, path in inputs.items()
                if role.startswith(f"{name}.") and role != f"{name}.model"
            },
        )
        for name, directory in models_of(inputs).items()
    ]


def models_of(inputs: Mapping[str, Path]) -> dict[str, Path]:
    """The folders of the models by name, in the order of the inputs."""
    return {role.removesuffix(".model"): path for role, path in inputs.items() if role.endswith(".model")}


def compare(models: Sequence[MeasuredFolder]) -> dict[str, Numbers]:
    """All numbers by model; all models but the first have a recovery.

    A measure's numbers are the model's own. Where an earlier measure has given numbers of the same names, as a second
    Perplexity would, they are in a group under the measure's name.

    Raises:
        StageError: the name of such a group is that of a number.
    """
    reference, own = models[0], _without_group(models)
    found: dict[str, Numbers] = {}
    for model in models:
        numbers: Numbers = {"size_mb": model.size_mb}
        for name, measured in model.measurements.items():
            compared = dict(measured)
            if model is not reference and name in reference.measurements:
                compared |= recovery(reference, model, name)
            numbers = _merged(numbers, compared if name in own else {name: compared})
        found[model.name] = numbers
    return found


def recovery(reference: MeasuredFolder, model: MeasuredFolder, measure: str) -> Numbers:
    """How much of the reference's quality a model has by a measure, if the two can be compared.

    This is this project's own definition: the reference's perplexity over the model's, in percent. 100 means that
    nothing was lost; since less perplexity is better, the ratio is the inverse of the usual one of accuracies. Between
    models with one tokenizer the perplexity is that of a token (`recovery_by` is `token`). Tokens of two tokenizers
    cover more or less text, so between them it is that of a byte: exp of the difference of the nats per byte
    (`byte`). Perplexities of masked tokens compare only where the same ones were masked, so between equal objectives.
    """
    before, after = reference.measurements[measure], model.measurements[measure]
    is_comparable = reference.card.objective == model.card.objective or not (
        reference.card.objective.is_masked or model.card.objective.is_masked
    )
    if not is_comparable:
        return {}
    if reference.card.tokenizer == model.card.tokenizer:
        for key in _PERPLEXITIES:
            if key in before and key in after:
                return _recovery(before[key] / after[key], "token")
    elif "bits_per_byte" in before and "bits_per_byte" in after:
        bits = before["bits_per_byte"] - after["bits_per_byte"]
        return _recovery(2 ** min(bits, math.log2(_LARGEST_RATIO)), "byte")
    return {}


def _recovery(ratio: float, by: str) -> Numbers:
    # A reference that has diverged has no quality to keep.
    return {"recovery_percent": 100 * ratio, "recovery_by": by} if ratio < _LARGEST_RATIO else {}


def _without_group(models: Sequence[MeasuredFolder]) -> set[str]:
    """The measures whose numbers are a model's own: no earlier measure of any model has given some of these names."""
    taken: set[str] = set(_OWN)
    own: set[str] = set()
    for name in dict.fromkeys(name for model in models for name in model.measurements):
        measured = [model.measurements[name] for model in models if name in model.measurements]
        names = {key for numbers in measured for key, value in numbers.items() if not isinstance(value, dict)}
        if not names & taken:
            own.add(name)
            taken |= names
    clashes = sorted(taken & {name for model in models for name in model.measurements.keys() - own})
    if clashes:
        raise StageError(f"{', '.join(clashes)}: the name of a measure and of a number; give the measure another")
    return own


def _merged(first: Numbers, second: Numbers) -> Numbers:
    """Both, with groups of one name merged in the same way."""
    both = {key for key in first.keys() & second.keys() if isinstance(first[key], dict)}
    return first | second | {key: _merged(first[key], second[key]) for key in both}
