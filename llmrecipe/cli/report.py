"""`llmrecipe report`: what came of a recipe, in one screen."""

import argparse
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs

from llmrecipe import artifacts, cards, dvcfiles, integrity, times
from llmrecipe.cards import ModelCard
from llmrecipe.cli import outdated
from llmrecipe.cli.listing import one
from llmrecipe.cli.render import foreign, show_warning
from llmrecipe.errors import LLMRecipeError, StageError, Violation
from llmrecipe.loader import find
from llmrecipe.lost import LostText
from llmrecipe.plan.pipeline import Pipeline
from llmrecipe.plan.planner import plan
from llmrecipe.plan.stage import Stage
from llmrecipe.pretrained.completed import completed
from llmrecipe.recipe.recipe import Recipe
from llmrecipe.sections import MeasureSection, ReportSection, TokenizeSection, TrainSection

SHOWN_SAMPLES = 3

SAMPLES = "samples.json"

COLUMNS = {
    "perplexity": ("perplexity", "{:,.2f}"),
    "bits_per_byte": ("bits/byte", "{:.3f}"),
    "masked_perplexity": ("masked perplexity", "{:,.2f}"),
    "masked_accuracy_percent": ("accuracy", "{:.1f} %"),
    "pseudo_perplexity": ("pseudo-perplexity", "{:,.2f}"),
    "training_loss": ("training loss", "{:.4f}"),
    "validation_loss": ("validation loss", "{:.4f}"),
    "training_seconds": ("training", "{:,.0f} s"),
    "tokens_per_second": ("speed", "{:,.0f} tokens/s"),
    "recovery_percent": ("recovery", "{:.1f} %"),
    "text_lost_percent": ("text lost", "{:.1f} %"),
    "size_mb": ("size", "{:,.2f} MB"),
}
"""The title and form of a number, by its name; others are shown by their names, in front of recovery."""

_OTHER = "{:.4g}"

_LONGEST = 1e12

_GROUPS = ("corpora", "unigram")
"""What is no measure's group of numbers."""


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
    from llmrecipe.cli import compared, revisions

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
    return report(_recipe(reference))


def _recipe(reference: str) -> Recipe:
    root = Path()
    found = find(reference)
    recipe, _ = completed(found.value, root, dvcfiles.outputs(root))
    outdated.warn(recipe, found.reference, root)
    return recipe


def _warn(reference: str) -> None:
    """Say if a recipe isn't as it was planned, or can't be loaded any more, which its results don't need."""
    try:
        _recipe(reference)
    except LLMRecipeError as error:
        show_warning(Violation(reference, str(error)))


def report(recipe: Recipe) -> str:
    """The results of a recipe in the current folder, as text.

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
    final = recipe.models[-1].name
    sections = [
        f"{recipe.name}: {models[final]}",
        _table(metrics, models),
        "\n".join(_notes(models)),
        "\n".join(_lost(pipeline)),
        "\n".join(_speeds(pipeline)),
        *map(_sample, list(_samples(pipeline, comparison, final))[:SHOWN_SAMPLES]),
    ]
    return "\n\n".join(filter(None, sections))


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
    path = Path(stage.product(name))
    if not path.exists():
        raise StageError(f"{path}: no such file; run `dvc repro {stage.name}`, which makes it")
    return integrity.read_json(path)


@attrs.frozen
class Column:
    """A column of numbers."""

    group: str
    """The name of the measure that they are a group of; empty for a model's own."""

    key: str
    """Their name."""

    @property
    def title(self) -> str:
        """What is written above it: `web-perplexity: bits/byte`."""
        title, _ = COLUMNS.get(self.key, (self.key, _OTHER))
        return f"{self.group}: {title}" if self.group else title

    @property
    def place(self) -> tuple[bool, float]:
        """Known numbers in their order, others in front of recovery and size, groups last."""
        known = list(COLUMNS)
        return bool(self.group), known.index(self.key) if self.key in known else known.index("recovery_percent") - 0.5

    def cell(self, numbers: dict[str, Any]) -> str:
        """The number of a model as text; empty if it has none."""
        found = numbers.get(self.group, {}) if self.group else numbers
        if self.key not in found:
            return ""
        _, form = COLUMNS.get(self.key, (self.key, _OTHER))
        by = " by byte" if self.key == "recovery_percent" and found.get("recovery_by") == "byte" else ""
        # A model that has diverged has numbers of hundreds of digits.
        return (form if abs(found[self.key]) < _LONGEST else _OTHER).format(found[self.key]) + by


def _columns(rows: list[dict[str, Any]]) -> list[Column]:
    found: dict[Column, None] = {}
    for numbers in rows:
        groups = {"": numbers} | {
            name: value for name, value in numbers.items() if isinstance(value, dict) and name not in _GROUPS
        }
        for group, values in groups.items():
            found |= {Column(group, key): None for key, value in values.items() if isinstance(value, int | float)}
    return sorted(found, key=lambda column: column.place)


def _table(metrics: dict[str, dict[str, Any]], models: dict[str, Path]) -> str:
    rows = [(name, metrics[name], str(path)) for name, path in models.items()]
    rows += _unigrams({name: metrics[name] for name in models})
    return table("held-out text", rows)


def table(title: str, rows: list[tuple[str, dict[str, Any], str]]) -> str:
    """A table of numbers: what each row is of, its numbers as measures have them, and a remark."""
    columns = _columns([numbers for _, numbers, _ in rows])
    cells = [[title, *(column.title for column in columns), ""]]
    for name, numbers, remark in rows:
        cells.append([name, *(column.cell(numbers) for column in columns), remark])
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = []
    for first, *middle, last in cells:
        aligned = (cell.rjust(width) for cell, width in zip(middle, widths[1:-1], strict=True))
        lines.append("  ".join([first.ljust(widths[0]), *aligned, last]).rstrip())
    return "\n".join(lines)


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
        if isinstance(stage.section, TrainSection):
            yield f"training of {stage.owner}: {_speed(stage)}"


def _speed(stage: Stage) -> str:
    measured = times.read(stage.name, Path(stage.output))
    # What DVC pulled was measured elsewhere.
    if measured is None:
        return "not run on this machine"
    parts = [f"{measured['tokens_per_second']:,.0f} tokens/s"]
    # Speeds of different kinds of processors can't be compared without.
    if library := measured.get("library"):
        parts.append(f"multiplied by {library}")
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
