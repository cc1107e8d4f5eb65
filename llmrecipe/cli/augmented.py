"""What an augmenter made of the documents of a corpus, for `llmrecipe data show`."""

import json
import textwrap
from pathlib import Path
from typing import Any

from llmrecipe import integrity, layout
from llmrecipe.errors import StageError, suggestion
from llmrecipe.foreign import foreign

_SHOWN = 5
"""Examples of what was kept, and of what was dropped."""

_LINES = 12


def shown(corpus: str, augmenter: str) -> str:
    """How many texts it made and kept, why it dropped the others, and examples next to their sources.

    Raises:
        StageError: the corpus isn't augmented, or by no such augmenter.
    """
    folder = Path(layout.folder(corpus, "augment"))
    integrity.verify([folder / "metrics.json", folder / "examples.jsonl"])
    try:
        metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
        lines = (folder / "examples.jsonl").read_text(encoding="utf-8").splitlines()
    except FileNotFoundError as error:
        raise StageError(f"{error.filename}: no such file; `dvc repro` makes it if the corpus is augmented") from None
    known = metrics["augmented"]
    if augmenter not in known:
        reason = f"nothing of that name augments {corpus}{suggestion(augmenter, list(known))}"
        raise StageError(f"--augmented {augmenter}: {reason}")
    rows = [row for row in map(json.loads, lines) if row["by"] == augmenter]
    kept, dropped = ([row for row in rows if bool(row["because"]) is other] for other in (False, True))
    return "\n\n".join([_summary(augmenter, known[augmenter]), *map(_example, kept[:_SHOWN] + dropped[:_SHOWN])])


def _summary(augmenter: str, counts: dict[str, Any]) -> str:
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in counts["dropped"].items() if count)
    return (
        f"{augmenter} made {counts['tried']:,} texts and kept {counts['kept']:,}, {counts['share']:.1%} of the "
        f"training documents and {counts['share_of_bytes']:.1%} of their bytes; dropped: {reasons or 'none'}"
    )


def _example(row: dict[str, Any]) -> str:
    measures = "".join(f", {name} {row[name]}" for name in ("similarity", "length_ratio") if name in row)
    texts = (f"{_indented(row[name])}" for name in ("source", "text"))
    return foreign(f"{row['id']}: {row['because'] or 'kept'}{measures}\n" + "\n    -->\n".join(texts))


def _indented(text: str) -> str:
    return textwrap.indent("\n".join(text.strip().splitlines()[:_LINES]), "    ")
