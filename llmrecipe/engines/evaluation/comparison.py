"""What was measured of several models, put next to each other."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import attrs

from llmrecipe import artifacts, cards
from llmrecipe.cards import ModelCard
from llmrecipe.engines.evaluation.recovery import Measured, Numbers, recovery
from llmrecipe.errors import StageError
from llmrecipe.pretrained import elsewhere
from llmrecipe.recipe.measure import OF_RUN, RECOVERIES, RECOVERY

_FILES = ("documents", "scores")
"""What belongs to a measurement, by its role's end."""

_OWN = {"size_mb", "unigram", "corpora", RECOVERIES, *RECOVERY, *OF_RUN}
"""Names that are no measure's own."""

_LOST = "text_lost_percent"
"""What is known of a text by whatever measure reads it."""


@attrs.frozen(kw_only=True)
class MeasuredFolder:
    """A model and what was measured of it."""

    name: str
    """The model's name."""

    size_mb: float
    """Size of its weights files, 1 MB = 10^6 bytes."""

    measurements: dict[str, Measured]
    """What the measures gave, by the measure's name."""


def read(inputs: Mapping[str, Path]) -> list[MeasuredFolder]:
    """The models among a stage's inputs, in their order: folders `NAME.model`, JSON files `NAME.MEASURE`, and by
    document losses `NAME.MEASURE.documents` and scores `NAME.MEASURE.scores`.

    Raises:
        StageError: a folder is no whole model.
    """
    for directory in models_of(inputs).values():
        artifacts.open_artifact(directory, "model")
    return [
        MeasuredFolder(
            name=name,
            size_mb=elsewhere.size_of(directory) / 1e6,
            measurements=_measurements(name, cards.read(directory, ModelCard), inputs),
        )
        for name, directory in models_of(inputs).items()
    ]


def _measurements(name: str, card: ModelCard, inputs: Mapping[str, Path]) -> dict[str, Measured]:
    found = {}
    for role, path in inputs.items():
        model, _, measure = role.partition(".")
        if model == name and measure != "model" and "." not in measure:
            files = {each: inputs.get(f"{role}.{each}") for each in _FILES}
            found[measure] = Measured(card=card, numbers=artifacts.read_json(path), **files)
    return found


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
            compared = measured.numbers
            if model is not reference and name in reference.measurements:
                compared = _merged(compared, recovery(reference.measurements[name], measured))
            numbers = _merged(numbers, compared if name in own else {name: compared})
        found[model.name] = numbers
    return found


def _without_group(models: Sequence[MeasuredFolder]) -> set[str]:
    """The measures whose numbers are a model's own: no earlier measure of any model has given some of these names."""
    taken: set[str] = set(_OWN)
    own: set[str] = set()
    for name in dict.fromkeys(name for model in models for name in model.measurements):
        measured = [model.measurements[name].numbers for model in models if name in model.measurements]
        names = {key for numbers in measured for key, value in numbers.items() if not isinstance(value, dict)} - {_LOST}
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
