"""`llmrecipe data`: what became of the documents of a corpus."""

import argparse
import json
import textwrap
from pathlib import Path
from typing import Any

from llmrecipe import funnel, integrity, layout
from llmrecipe.cli import augmented
from llmrecipe.errors import StageError, suggestion
from llmrecipe.foreign import foreign

_SHOWN = 5
_LINES = 12

_NOTE = """\
Tokens are words and signs, since there is no tokenizer yet. Tokens and MB are of the documents that were dropped, and
of what was cut from those that were changed. `--dropped CLEANER` shows examples."""


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add `data show` to the commands."""
    parser = subparsers.add_parser("data", help="show what became of the documents of a corpus")
    actions = parser.add_subparsers(required=True, metavar="ACTION")
    show = actions.add_parser("show", help="what each cleaner dropped and left, or examples of what one dropped")
    show.add_argument("corpus", metavar="CORPUS", help="the name of a corpus, as in its Corpus(name=…)")
    show.add_argument("--dropped", metavar="CLEANER", help="show documents that this cleaner dropped, and why")
    show.add_argument("--augmented", metavar="AUGMENTER", help="show texts that this augmenter made, and their sources")
    show.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print the funnel, or examples.

    Raises:
        StageError: the corpus isn't prepared, or it has no such cleaner or augmenter.
    """
    if options.augmented is not None:
        print(augmented.shown(options.corpus, options.augmented))
        return 0
    folder = Path(layout.folder(options.corpus, "prepare"))
    metrics = json.loads(_read(folder / "metrics.json"))
    if options.dropped is None:
        print(f"{options.corpus}\n\n{funnel.text(metrics)}\n\n{_NOTE}")
    else:
        if options.dropped not in metrics["dropped"]:
            known = suggestion(options.dropped, metrics["cleaners"])
            raise StageError(f"--dropped {options.dropped}: nothing of that name cleans {options.corpus}{known}")
        rows = map(json.loads, _read(folder / "dropped.jsonl").splitlines())
        print(_examples(options.dropped, metrics, [row for row in rows if row["by"] == options.dropped]))
    return 0


def _read(path: Path) -> str:
    integrity.verify([path])
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise StageError(f"{path}: no such file; `dvc repro` makes it") from None


def _examples(cleaner: str, metrics: dict[str, Any], rows: list[dict[str, str]]) -> str:
    total, changed, gone = (metrics[name][cleaner] for name in ("dropped", "changed", "dropped_tokens"))
    parts = [
        f"{cleaner} dropped {total:,} documents and changed {changed:,}: {gone:,} tokens, "
        f"{funnel.megabytes(metrics['dropped_text_bytes'][cleaner])} MB"
    ]
    for row in rows[:_SHOWN]:
        because = f": {row['because']}" if row["because"] else ""
        beginning = "\n".join(row["text"].strip().splitlines()[:_LINES])
        parts.append(foreign(f"{row['id']}{because}\n{textwrap.indent(beginning, '    ')}"))
    return "\n\n".join(parts)
