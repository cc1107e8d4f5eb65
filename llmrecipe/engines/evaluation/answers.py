"""How well a model does the task that it was fine-tuned for."""

import logging
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedModel

from llmrecipe import artifacts
from llmrecipe.cards import ModelCard
from llmrecipe.engines.evaluation import bootstrap
from llmrecipe.engines.models import folders
from llmrecipe.engines.tasks import examples as folder
from llmrecipe.engines.tasks.heads import work_of
from llmrecipe.engines.tasks.work import Score, Verdict
from llmrecipe.errors import StageError
from llmrecipe.progress import told
from llmrecipe.recipe.measure import ANSWERS, ERRORS, SCORES, Task

log = logging.getLogger(__name__)

MOST_ERRORS = 100

_FEW = 2
"""Examples of which no interval is taken."""

_CELL, _LEFT, _TOP = 46, 130, 96
"""Pixels of a square, and beside and above all of them."""


def measured(
    asked: Task, card: ModelCard, directory: Path, model: PreTrainedModel, examples: Path, output: Path
) -> dict[str, Any]:
    """The numbers of a model on a split of the examples of its task; its files are written to `output`.

    Raises:
        StageError: the model has learned no task, or another one, or other labels.
    """
    known, own = folder.card_of(examples), card.task
    if own is None or own.task != known.task or own.labels != known.labels:
        has = "no task" if own is None else f"{own.task} of {', '.join(own.labels) or 'scores'}"
        raise StageError(
            f"{directory}: has learned {has}, and the examples in {examples} are of {known.task} of "
            f"{', '.join(known.labels) or 'scores'}; measure it on those that it has learned from"
        )
    rows = folder.read(examples, asked.split)
    work = work_of(own, folders.load_tokenizer(directory))
    items, cut = work.items(rows)
    log.info("answers %s examples", f"{len(rows):,}")
    verdict = work.verdict(rows, work.answers(model, items, lambda batches: told(batches, "measuring")))
    found = {name: with_interval(score) for name, score in verdict.scores.items()}
    of = artifacts.file_digest(examples / f"{asked.split}.jsonl")
    artifacts.write_json(output / SCORES, {name: written(score, of) for name, score in verdict.scores.items()})
    artifacts.write_jsonl(output / ERRORS, verdict.errors[:MOST_ERRORS])
    artifacts.write_text(output / ANSWERS, _picture(verdict, asked.split))
    plain = work.plain(model, items, rows)
    numbers = {**verdict.numbers, "intervals": found, "examples": len(rows), "cut_examples": cut}
    return numbers | ({"plain": plain} if plain else {})


def with_interval(score: Score) -> dict[str, float]:
    """The ends of its 95 % interval."""
    if len(score.above) < _FEW:
        return {}
    ends = bootstrap.ratio(np.array(score.above), np.array(score.below))
    return {} if ends is None else {"low": ends[0], "high": ends[1]}


def written(score: Score, of: str) -> dict[str, Any]:
    """It as `scores.json` holds it, `of` the digest of what was answered."""
    return {"better": score.better, "documents": score.above, "over": score.below, "of": of}


def _picture(verdict: Verdict, split: str) -> str:
    """An SVG: what was taken for what, in percent of what there is of it."""
    rows = list(dict.fromkeys(own for own, _, _ in verdict.pairs))
    columns = list(dict.fromkeys(said for _, said, _ in verdict.pairs))
    counts = {(own, said): count for own, said, count in verdict.pairs}
    width, height = _LEFT + _CELL * max(len(columns), 4) + 20, _TOP + _CELL * max(len(rows), 1) + 20
    parts = [f'<rect width="{width}" height="{height}" fill="white"/>']
    parts.append(_text(10, 20, f"what was taken for what, {split} examples, % of each row", "start"))
    for across, said in enumerate(columns):
        x = _LEFT + _CELL * across + _CELL / 2
        parts.append(f'<g transform="rotate(-45 {x:.0f} {_TOP - 8})">{_text(x, _TOP - 8, said, "start")}</g>')
    for down, own in enumerate(rows):
        y, total = _TOP + _CELL * down, sum(counts.get((own, said), 0) for said in columns)
        parts.append(_text(_LEFT - 8, y + _CELL / 2 + 4, f"{own} ({total:,})", "end"))
        for across, said in enumerate(columns):
            share = counts.get((own, said), 0) / total if total else 0.0
            shade = round(255 - 155 * share)
            x = _LEFT + _CELL * across
            parts.append(
                f'<rect x="{x}" y="{y}" width="{_CELL - 2}" height="{_CELL - 2}" fill="rgb({shade},{shade},255)"/>'
            )
            if share:
                parts.append(_text(x + _CELL / 2 - 1, y + _CELL / 2 + 3, f"{100 * share:.1f}", "middle"))
    if not verdict.pairs:
        parts.append(_text(10, _TOP, "a score is of no class", "start"))
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        f'style="font-family:sans-serif;font-size:11px">\n{body}\n</svg>\n'
    )


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="#333333">{escape(text)}</text>'
