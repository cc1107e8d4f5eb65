"""`llmrecipe compare`: every number of every model of some recipes."""

import argparse
import csv
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import attrs

from llmrecipe import cards, times
from llmrecipe.cards import ModelCard
from llmrecipe.cli import report, revisions
from llmrecipe.cli.listing import named_or_only
from llmrecipe.cli.recipes import add_argument
from llmrecipe.cli.table import table
from llmrecipe.errors import LoadError
from llmrecipe.foreign import foreign
from llmrecipe.plan.pipeline import Pipeline
from llmrecipe.recipe.measure import TokenMeasure
from llmrecipe.recipe.recipe import Recipe

_TIMED = ("tokens_per_second", "peak_memory_mb")
"""What is known of the run of a measure, if it was on this machine; of another it says nothing."""


@attrs.frozen(kw_only=True)
class Row:
    """A model of a recipe, and all that is known of it."""

    recipe: str
    model: str
    numbers: dict[str, Any]

    processor: str | None
    """Where it was measured how fast it reads; None if that wasn't here."""


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add `compare` to the commands."""
    parser = subparsers.add_parser(
        "compare", help="show every number of the models of recipes: size, quality, recovery, speed, memory"
    )
    add_argument(parser)
    parser.add_argument("--csv", action="store_true", help="print comma-separated values, in full precision")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print the models of the recipes, with what their stages have left.

    Raises:
        LoadError: there is no such recipe, or it is asked for as it was.
        StageError: a result is missing.
    """
    past = [reference for reference in options.recipes if revisions.is_revision(reference)]
    if past:
        raise LoadError(
            f"{past[0]}: `compare` shows the models that are in this folder now; `llmrecipe report {' '.join(past)}` "
            "shows what came of commits and experiments"
        )
    recipes = [report.recipe_of(reference) for reference in named_or_only(options.recipes)]
    rows = [row for recipe in recipes for row in _rows(recipe)]
    if options.csv:
        _print_csv(rows)
    else:
        print(_shown(rows, with_recipe=len(recipes) > 1))
    return 0


def _rows(recipe: Recipe) -> Iterator[Row]:
    results = report.results(recipe)
    for model, path in results.models.items():
        numbers = dict(results.metrics[model])
        card = cards.read(path, ModelCard)
        numbers["bits_per_weight"] = 8e6 * numbers["size_mb"] / card.network.num_parameters(card.rows)
        measured = _timed(recipe, model, results.pipeline)
        numbers |= {key: measured[key] for key in _TIMED if key in measured}
        yield Row(recipe=recipe.name, model=model, numbers=numbers, processor=measured.get("processor"))


def _timed(recipe: Recipe, model: str, pipeline: Pipeline) -> dict[str, Any]:
    """What is known of the run of the recipe's first measure that counts tokens, of a model."""
    measure = next((measure for measure in recipe.measures if isinstance(measure, TokenMeasure)), None)
    name = None if measure is None else f"{model}-{measure.name}"
    stage = next((stage for stage in pipeline.stages if stage.name == name), None)
    return {} if stage is None else times.read(stage.name, Path(stage.output)) or {}


def _shown(rows: Sequence[Row], *, with_recipe: bool) -> str:
    processors = sorted({row.processor for row in rows if row.processor is not None})
    named = [
        (
            f"{row.recipe}: {row.model}" if with_recipe else row.model,
            row.numbers,
            (row.processor or "") if len(processors) > 1 else "",
        )
        for row in rows
    ]
    where = [f"speed and memory: reading held-out text on {' or '.join(processors)}"] if processors else []
    return foreign("\n\n".join([table("model", named), *where]))


def _print_csv(rows: Sequence[Row]) -> None:
    flat = [
        {"recipe": row.recipe, "model": row.model} | dict(_flat(row.numbers)) | {"processor": row.processor or ""}
        for row in rows
    ]
    columns = dict.fromkeys(key for row in flat for key in row)
    writer = csv.DictWriter(sys.stdout, list(columns), restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat)


def _flat(numbers: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Numbers of groups by their paths: `corpora.web.perplexity`."""
    for key, value in sorted(numbers.items()):
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
