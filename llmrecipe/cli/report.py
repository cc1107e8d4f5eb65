"""`llmrecipe report`: what came of a recipe, in one screen."""

import argparse
import json
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs

from llmrecipe import artifacts, cards, dvcfiles, integrity, times
from llmrecipe.cards import ModelCard
from llmrecipe.cli import compared, diagnosis, outdated, revisions
from llmrecipe.cli.listing import one
from llmrecipe.cli.render import show_warning
from llmrecipe.cli.table import recoveries, table
from llmrecipe.cli.tasks import reports
from llmrecipe.errors import LLMRecipeError, StageError, Violation
from llmrecipe.foreign import foreign
from llmrecipe.loader import find
from llmrecipe.lost import LostText
from llmrecipe.plan.pipeline import Pipeline
from llmrecipe.plan.planner import plan
from llmrecipe.plan.stage import Stage
from llmrecipe.pretrained.completed import completed
from llmrecipe.recipe.measure import LAYERS
from llmrecipe.recipe.recipe import Recipe
from llmrecipe.sections import (
    FineTuneSection,
    MeasureSection,
    QuantizeSection,
    ReleaseSection,
    ReportSection,
    TokenizeSection,
    TrainSection,
)

SHOWN_SAMPLES = 3

SAMPLES = "samples.json"

_OF_TEXT = ("perplexity", "masked_perplexity", "pseudo_perplexity")


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add `report` to the commands."""
    parser = subparsers.add_parser("report", help="show what came of a recipe: models, quality, sizes, samples")
    parser.add_argument(
        "recipes",
        nargs="*",
        metavar="RECIPE[@REVISION]",
        help="file.py, file.py:function, or the name of a file in recipes/ (default: the only one); with several, or "
        "with a commit or an experiment of DVC, what differs and what came of it",
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print the report.

    Raises:
        LoadError: there is no such recipe.
        StageError: a result is missing.
    """
    references = options.recipes
    if len(references) > 1 or any(map(revisions.is_revision, references)):
        versions = revisions.versions(references)
        for version in versions:
            if version.planned:
                _warn(version.recipe.reference)
        print(compared.compared(versions))
    else:
        print(of(one(*references)))
    return 0


def of(reference: str) -> str:
    """The results of the recipe that is named, after a warning if the project's plan has it otherwise.

    Raises:
        LoadError: there is no such recipe.
        StageError: a result is missing.
    """
    return report(recipe_of(reference))


def recipe_of(reference: str) -> Recipe:
    """The recipe that is named, after a warning if the project's plan has it otherwise.

    Raises:
        LoadError: there is no such recipe.
    """
    root = Path()
    found = find(reference)
    recipe, _ = completed(found.value, root, dvcfiles.outputs(root))
    outdated.warn(recipe, found.reference, root)
    return recipe


def _warn(reference: str) -> None:
    """Say if a recipe isn't as it was planned, or can't be loaded any more, which its results don't need."""
    try:
        recipe_of(reference)
    except LLMRecipeError as error:
        show_warning(Violation(reference, str(error)))


@attrs.frozen(kw_only=True)
class Results:
    """What came of a recipe."""

    pipeline: Pipeline
    """Its stages."""

    comparison: Stage
    """The one that compares."""

    metrics: dict[str, dict[str, Any]]
    """What that says, by model."""

    models: dict[str, Path]
    """The folders of its models by name."""


def results(recipe: Recipe) -> Results:
    """The results of a recipe in the current folder.

    Raises:
        StageError: a result is missing.
    """
    pipeline = plan([recipe])
    comparison = next(stage for stage in pipeline.stages if isinstance(stage.section, ReportSection))
    metrics = _read(comparison, "metrics.json")
    models = {model.name: Path(comparison.inputs[f"{model.name}.model"]) for model in recipe.models}
    for path in models.values():
        artifacts.open_artifact(path, "model")
    integrity.verify(models.values(), only_cards=True)
    return Results(pipeline=pipeline, comparison=comparison, metrics=metrics, models=models)


def report(recipe: Recipe) -> str:
    """The results of a recipe in the current folder, as text.

    Raises:
        StageError: a result is missing.
    """
    found = results(recipe)
    pipeline, metrics, models = found.pipeline, found.metrics, found.models
    final = recipe.models[-1].name
    sections = [
        f"{recipe.name}: {models[final]}",
        _table(metrics, models),
        recoveries({name: metrics[name] for name in models}),
        reports({name: metrics[name] for name in models}),
        _released(pipeline),
        "\n".join(_diagnoses(pipeline)),
        "\n".join(_notes(models)),
        "\n".join(_lost(pipeline)),
        "\n".join(_speeds(pipeline)),
        *map(_sample, list(_samples(pipeline, found.comparison, final))[:SHOWN_SAMPLES]),
    ]
    return "\n\n".join(filter(None, sections))


def _released(pipeline: Pipeline) -> str:
    """Which model is released, and by what."""
    stage = next((stage for stage in pipeline.stages if isinstance(stage.section, ReleaseSection)), None)
    if stage is None:
        return ""
    if not Path(stage.product("metrics.json")).exists():
        return f"released: none yet; `dvc repro {stage.name}` takes the first that passes, or says why none does"
    found = _read(stage, "metrics.json")
    verdicts = found["candidates"][found["released"]]
    why = [_wrapped(f"  {verdict['gate']}: {verdict['found']}") for verdict in verdicts]
    return "\n".join([f"released: {found['released']}, {stage.product('model')}", *why])


def _diagnoses(pipeline: Pipeline) -> Iterator[str]:
    """What would help models whose layers were measured."""
    for stage in pipeline.stages:
        if isinstance(stage.section, MeasureSection) and LAYERS in stage.outs:
            path = _there(stage, LAYERS)
            integrity.verify([path])
            rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
            asked = _quantization(stage.owner, pipeline)
            if asked is not None:
                yield from map(foreign, diagnosis.told(stage.owner, diagnosis.proposals(rows, asked)))


def _quantization(model: str, pipeline: Pipeline) -> QuantizeSection | None:
    """How a model was quantized."""
    sections = (stage.section for stage in pipeline.stages if stage.owner == model)
    return next((section for section in sections if isinstance(section, QuantizeSection)), None)


def _notes(models: Mapping[str, Path]) -> Iterator[str]:
    """What their cards say that a reader of the numbers should know, each once."""
    told: dict[str, list[str]] = {}
    for name, path in models.items():
        for note in cards.read(path, ModelCard).notes:
            told.setdefault(note, []).append(name)
    for note, names in told.items():
        yield _wrapped(f"{', '.join(names)}: {note}")


def _lost(pipeline: Pipeline) -> Iterator[str]:
    """What tokens lost of a text, and why there is no number in bytes."""
    for stage in pipeline.stages:
        if isinstance(stage.section, TokenizeSection) and Path(stage.product("metrics.json")).exists():
            for split, counts in _read(stage, "metrics.json").items():
                lost = LostText(**counts.get("lost", {}))
                if not lost.is_small:
                    yield _wrapped(f"{stage.name}: {lost.told(split)}")


def _wrapped(note: str) -> str:
    return textwrap.fill(foreign(note), width=100, subsequent_indent="  ")


def _read(stage: Stage, name: str) -> Any:
    """The data of a JSON file that a stage leaves."""
    return integrity.read_json(_there(stage, name))


def _there(stage: Stage, name: str) -> Path:
    """The path of a file that a stage leaves, which has to be there."""
    path = Path(stage.product(name))
    if not path.exists():
        raise StageError(f"{path}: no such file; run `dvc repro {stage.name}`, which makes it")
    return path


def _table(metrics: dict[str, dict[str, Any]], models: dict[str, Path]) -> str:
    rows = [(name, metrics[name], str(path)) for name, path in models.items()]
    rows += _unigrams({name: metrics[name] for name in models})
    reads_text = any(key in numbers for _, numbers, _ in rows for key in _OF_TEXT)
    return table("held-out text" if reads_text else "model", rows)


def _unigrams(metrics: dict[str, dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any], str]]:
    """The rows of the unigram models: models that read the same tokens share one."""
    found: list[tuple[str, dict[str, Any]]] = []
    for name, numbers in metrics.items():
        groups = {key: value for key, value in numbers.items() if isinstance(value, dict)}
        unigram = {key: group["unigram"] for key, group in groups.items() if "unigram" in group}
        unigram |= groups.get("unigram", {})
        if unigram and unigram not in [known for _, known in found]:
            found.append((name, unigram))
    for name, unigram in found:
        title = "unigram" if len(found) == 1 else f"unigram of {name}"
        yield title, unigram, "(token frequencies alone)"


def _speeds(pipeline: Pipeline) -> Iterator[str]:
    """A line for each model that is trained."""
    for stage in pipeline.stages:
        if isinstance(stage.section, TrainSection | FineTuneSection):
            yield f"training of {stage.owner}: {_speed(stage)}"


def _speed(stage: Stage) -> str:
    measured = times.read(stage.name, Path(stage.output))
    # What DVC pulled was measured elsewhere, and what is damaged isn't known to be what was measured.
    if measured is None:
        integrity.verify_identity(Path(stage.output))
        return "not run on this machine"
    parts = [f"{measured['tokens_per_second']:,.0f} tokens/s"]
    # Speeds of different kinds of processors can't be compared without.
    if library := measured.get("math_library"):
        parts.append(f"multiplied by {library}")
    if measured.get("compiled"):
        parts.append("layers compiled")
    # One rank waits for nobody, and a run that was finished by another launch has none of this.
    if kinds := measured.get("communication_percent"):
        each = ", ".join(f"{kind} {_percent(share)}" for kind, share in kinds.items())
        parts.append(f"{_percent(sum(kinds.values()))} of the time waiting for communication ({each})")
    if peaks := measured.get("peak_memory_mb"):
        parts.append(f"peak memory {max(peaks):,} MB a rank")
    return ", ".join(parts)


def _percent(share: float) -> str:
    return f"{share:.0f} %" if share >= 1 else f"{share:.1f} %"


def _samples(pipeline: Pipeline, comparison: Stage, model: str) -> Iterator[dict[str, str]]:
    """What a model was measured to write."""
    compared = [path for role, path in comparison.inputs.items() if role.startswith(f"{model}.")]
    for stage in pipeline.stages:
        is_measure = isinstance(stage.section, MeasureSection)
        if is_measure and stage.product("metrics.json") in compared and SAMPLES in stage.outs:
            yield from _read(stage, SAMPLES)


def _sample(sample: dict[str, str]) -> str:
    text = foreign(sample["prompt"] + sample["completion"])
    prompt = foreign(sample["prompt"]).replace("\n", "\\n").replace("\t", "\\t")
    return f"from '{prompt}':\n" + textwrap.indent(text, "    ", lambda line: True)
