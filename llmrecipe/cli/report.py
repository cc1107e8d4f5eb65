"""`llmrecipe report`: what came of a recipe, in one screen."""

import argparse
import json
import textwrap
from pathlib import Path
from typing import Any

from llmrecipe import artifacts
from llmrecipe.errors import StageError
from llmrecipe.loader import load

SHOWN_SAMPLES = 3

FOLDER_OF_MODEL = {"dense": "export/model", "quantized": "quantize/model"}
"""Where the models that `evaluate` names are, below the recipe's folder; the last is what the recipe is for."""

COLUMNS = {
    "perplexity": ("perplexity", "{:,.2f}"),
    "bits_per_byte": ("bits/byte", "{:.3f}"),
    "masked_perplexity": ("masked perplexity", "{:,.2f}"),
    "masked_accuracy_percent": ("accuracy", "{:.1f} %"),
    "pseudo_perplexity": ("pseudo-perplexity", "{:,.2f}"),
    "recovery_percent": ("recovery", "{:.1f} %"),
    "size_mb": ("size", "{:,.2f} MB"),
}
"""What is shown of a model if it was measured: its key, title and form."""


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add `report` to the commands."""
    parser = subparsers.add_parser("report", help="show what came of a recipe: models, quality, sizes, samples")
    parser.add_argument(
        "recipe",
        nargs="?",
        default="quickstart",
        metavar="RECIPE",
        help="file.py, file.py:function, or the name of a file in recipes/ (default: quickstart)",
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print the report.

    Raises:
        LoadError: there is no such recipe.
        StageError: a result is missing.
    """
    name = load(options.recipe).name
    print(report(name, Path("artifacts") / name))
    return 0


def report(name: str, folder: Path) -> str:
    """The results below `folder`, the artifacts of the recipe `name`, as text.

    Raises:
        StageError: a result is missing.
    """
    metrics = _read(folder / "evaluate/metrics.json")
    samples = _read(folder / "evaluate/samples.json")
    models = {role: folder / path for role, path in FOLDER_OF_MODEL.items() if role in metrics}
    for path in models.values():
        artifacts.open_artifact(path, "model")
    final = list(models)[-1]
    sections = [
        f"{name}: {models[final]}",
        _table(metrics, models),
        f"training: {_speed(folder / 'pretrain.run.json')}",
        *map(_sample, samples[final][:SHOWN_SAMPLES]),
    ]
    return "\n\n".join(sections)


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise StageError(f"{path}: no such file; run `dvc repro`, which makes it") from None
    except json.JSONDecodeError as error:
        raise StageError(f"{path}: not JSON ({error}); delete it and run `dvc repro`") from None


def _table(metrics: dict[str, dict[str, float]], models: dict[str, Path]) -> str:
    rows = [*models, *(["unigram"] if "unigram" in metrics else [])]
    columns = {key: column for key, column in COLUMNS.items() if any(key in metrics[role] for role in rows)}
    table = [["held-out text", *(title for title, _ in columns.values()), ""]]
    for role in rows:
        cells = [form.format(metrics[role][key]) if key in metrics[role] else "" for key, (_, form) in columns.items()]
        table.append([role, *cells, str(models.get(role, "(token frequencies alone)"))])
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = []
    for first, *middle, last in table:
        aligned = (cell.rjust(width) for cell, width in zip(middle, widths[1:-1], strict=True))
        lines.append("  ".join([first.ljust(widths[0]), *aligned, last]).rstrip())
    return "\n".join(lines)


def _speed(path: Path) -> str:
    # Not an output of DVC: a training that came out of its cache was measured elsewhere.
    if not path.exists():
        return "not run on this machine"
    measured = _read(path)
    parts = [f"{measured['tokens_per_second']:,.0f} tokens/s"]
    # One rank waits for nobody, and a training that was finished by another launch has none of this.
    if kinds := measured.get("communication_percent"):
        each = ", ".join(f"{kind} {_percent(share)}" for kind, share in kinds.items())
        parts.append(f"{_percent(sum(kinds.values()))} of the time waiting for communication ({each})")
    if peaks := measured.get("peak_memory_mb"):
        parts.append(f"peak memory {max(peaks):,} MB a rank")
    return ", ".join(parts)


def _percent(share: float) -> str:
    return f"{share:.0f} %" if share >= 1 else f"{share:.1f} %"


def _sample(sample: dict[str, str]) -> str:
    text = sample["prompt"] + sample["completion"]
    # A model may write anything, and a terminal obeys control characters.
    text = "".join(character if character.isprintable() or character in "\n\t" else "\ufffd" for character in text)
    return f"from {sample['prompt']!r}:\n" + textwrap.indent(text, "    ", lambda line: True)
