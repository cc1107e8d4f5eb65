"""How well a model does the task that it was fine-tuned for."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedModel

from llmrecipe import artifacts
from llmrecipe.cards import ModelCard
from llmrecipe.engines.evaluation import bootstrap
from llmrecipe.engines.evaluation.answer_pictures import answers_of
from llmrecipe.engines.evaluation.calibration import bins_of, calibration_error
from llmrecipe.engines.models import folders
from llmrecipe.engines.tasks import examples as folder
from llmrecipe.engines.tasks.heads import work_of
from llmrecipe.engines.tasks.resampling import FEW, interval
from llmrecipe.engines.tasks.score import Pooled, Score
from llmrecipe.errors import StageError
from llmrecipe.progress import told
from llmrecipe.recipe.measure import ANSWERS, ERRORS, SCORES, Task

log = logging.getLogger(__name__)

MOST_ERRORS = 100


def measured(
    asked: Task, card: ModelCard, directory: Path, model: PreTrainedModel, examples: Path, output: Path
) -> dict[str, Any]:
    """The numbers of a model on a split of the examples of its task; its files are written to `output`.

    Raises:
        StageError: the model has learned no task, or another one, or other labels.
    """
    known, own = folder.card_of(examples), card.task
    if own is None or own.task.tag != known.task or own.labels != known.labels:
        has = "no task" if own is None else f"{own.task.tag} of {', '.join(own.labels) or 'no labels'}"
        raise StageError(
            f"{directory}: has learned {has}, and the examples in {examples} are of {known.task} of "
            f"{', '.join(known.labels) or 'no labels'}; measure it on those that it has learned from"
        )
    rows = folder.read(examples, asked.split)
    work = work_of(own, folders.load_tokenizer(directory))
    items, cut = work.items(rows)
    if not items:
        raise StageError(
            f"{directory}: of no {asked.split} example anything is left within max_length = {own.task.max_length} "
            "tokens, so there is nothing to measure; use shorter examples, or a task with more"
        )
    log.info("answers %s examples", f"{len(rows):,}")
    answers = work.answers(model, items, lambda batches: told(batches, "measuring"))
    verdict = work.verdict(rows, answers | work.written(model, rows, asked, lambda batches: told(batches, "writing")))
    found = {name: with_interval(score) for name, score in verdict.scores.items()}
    found |= {name: pooled_interval(each) for name, each in verdict.pooled.items()}
    of = artifacts.file_digest(examples / f"{asked.split}.jsonl")
    artifacts.write_json(output / SCORES, {name: stored(score, of) for name, score in verdict.scores.items()})
    artifacts.write_jsonl(output / ERRORS, verdict.errors[:MOST_ERRORS])
    artifacts.write_text(output / ANSWERS, answers_of(verdict, asked.split))
    plain = work.plain(model, items, rows)
    numbers = {**verdict.numbers, "intervals": found, "examples": len(rows), "cut_examples": cut}
    if verdict.sure:
        numbers["calibration_error"] = calibration_error(bins_of(verdict.sure))
    return numbers | ({"plain": plain} if plain else {})


def with_interval(score: Score) -> dict[str, float]:
    """The ends of its 95 % interval."""
    if len(score.above) < FEW:
        return {}
    ends = bootstrap.ratio(np.array(score.above), np.array(score.below))
    return {} if ends is None else {"low": ends[0], "high": ends[1]}


def pooled_interval(number: Pooled) -> dict[str, float]:
    """The ends of its 95 % interval."""
    if len(number.counts) < FEW:
        return {}
    low, high = interval(number)
    return {"low": low, "high": high}


def stored(score: Score, of: str) -> dict[str, Any]:
    """It as `scores.json` holds it, `of` the digest of what was answered."""
    return {"better": score.better, "documents": score.above, "over": score.below, "of": of}
