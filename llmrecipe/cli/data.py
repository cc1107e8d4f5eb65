"""`llmrecipe data`: what became of the documents of a corpus."""

import argparse
import json
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llmrecipe.cli import augmented
from llmrecipe.errors import StageError, suggestion

_SHOWN = 5
_LINES = 12


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add `data show` to the commands."""
    parser = subparsers.add_parser("data", help="show what became of the documents of a corpus")
    actions = parser.add_subparsers(required=True, metavar="ACTION")
    show = actions.add_parser("show", help="how many documents each cleaner left, or examples of what one dropped")
    show.add_argument("corpus", metavar="CORPUS", help="the name of a corpus, as in its Corpus(name=…)")
    show.add_argument("--dropped", metavar="CLEANER", help="show documents that this cleaner dropped, and why")
    show.add_argument("--augmented", metavar="AUGMENTER", help="show texts that this augmenter made, by their sources")
    show.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print the funnel, or examples.

    Raises:
        StageError: the corpus isn't prepared, or it has no such cleaner or augmenter.
    """
    if options.augmented is not None:
        print(augmented.shown(options.corpus, options.augmented))
        return 0
    folder = Path("artifacts") / options.corpus / "prepare"
    metrics = json.loads(_read(folder / "metrics.json"))
    if options.dropped is None:
        _print_funnel(options.corpus, metrics)
    else:
        if options.dropped not in metrics["dropped"]:
            known = suggestion(options.dropped, list(metrics["dropped"]))
            raise StageError(f"--dropped {options.dropped}: nothing of that name cleans {options.corpus}{known}")
        rows = map(json.loads, _read(folder / "dropped.jsonl").splitlines())
        print(_examples(options.dropped, metrics, [row for row in rows if row["by"] == options.dropped]))
    return 0


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise StageError(f"{path}: no such file; `dvc repro` makes it") from None


def _print_funnel(corpus: str, metrics: dict[str, Any]) -> None:
    # Only here: the other commands answer without it.
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, title=corpus, title_justify="left")
    table.add_column("")
    for name in ("dropped", "documents", "MB"):
        table.add_column(name, justify="right")
    for cells in _funnel(metrics):
        table.add_row(*cells)
    Console(highlight=False).print(table)


def _funnel(metrics: dict[str, Any]) -> Iterator[tuple[str, str, str, str]]:
    """A row for each step: its name, documents dropped, and documents and megabytes that are left."""
    documents, size = metrics["read"]["documents"], metrics["read"]["text_bytes"]
    yield "read", "", f"{documents:,}", _megabytes(size)
    for cleaner, count in metrics["dropped"].items():
        documents -= count
        yield cleaner, f"{count:,}", f"{documents:,}", ""
        for reason, of_them in metrics["dropped_because"].get(cleaner, {}).items():
            yield f"  {reason}", f"{of_them:,}", "", ""
    for split in ("train", "heldout"):
        yield split, "", f"{metrics[split]['documents']:,}", _megabytes(metrics[split]["text_bytes"])


def _megabytes(count: int) -> str:
    return f"{count / 1e6:.2f}"


def _examples(cleaner: str, metrics: dict[str, Any], rows: list[dict[str, str]]) -> str:
    total, size = metrics["dropped"][cleaner], metrics["dropped_text_bytes"][cleaner]
    parts = [f"{cleaner} dropped {total:,} documents, {_megabytes(size)} MB"]
    for row in rows[:_SHOWN]:
        because = f": {row['because']}" if row["because"] else ""
        beginning = "\n".join(row["text"].strip().splitlines()[:_LINES])
        parts.append(f"{row['id']}{because}\n{textwrap.indent(beginning, '    ')}")
    return "\n\n".join(parts)
