"""Measures of a model: one function for each class of `Measure`, found by the class."""

import logging
import math
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property, partial, singledispatch
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from llmrecipe import artifacts, cards, lost
from llmrecipe.cards import ModelCard
from llmrecipe.engines.evaluation import answers, layers, lmeval, own
from llmrecipe.engines.evaluation.documents import DocumentSums, Means
from llmrecipe.engines.evaluation.heldout import HeldoutText, heldout_texts, heldout_token_rows
from llmrecipe.engines.evaluation.scores import PseudoScore, Score, score_of
from llmrecipe.engines.models import folders
from llmrecipe.engines.models.vocabulary import check_embeddings, check_tokenizer
from llmrecipe.engines.tokens.inputs import Tokens
from llmrecipe.errors import StageError
from llmrecipe.progress import told
from llmrecipe.recipe.custom_measure import CustomMeasure, CustomScores
from llmrecipe.recipe.measure import (
    LAYERS,
    SCORES,
    TASK_FILES,
    LayerErrors,
    LMEval,
    Measure,
    Perplexity,
    PseudoPerplexity,
    Samples,
    Task,
    TokenMeasure,
)

log = logging.getLogger(__name__)

_LARGEST_LOSS = math.log(sys.float_info.max)
"""Nats of the largest perplexity that is a number."""

Numbers = dict[str, Any]
"""What a measure says of a model: numbers by name, those of a mixture's parts below `corpora`."""


@attrs.frozen(kw_only=True, slots=False)
class LoadedModel:
    """A model that is measured, and the held-out text that it is measured on; a `MeasuredModel`."""

    directory: Path
    """Its folder."""

    card: ModelCard
    """What it is."""

    transformers_model: PreTrainedModel
    """The model in transformers, on `device` and ready for inference."""

    device: torch.device
    """Where it computes."""

    tokens: Tokens | None
    """The text in its own tokens; None for a measure that reads none."""

    examples: Path | None = None
    """The examples of the task that it has learned; None for a measure that reads none."""

    task_files: Path | None = None
    """The tasks of lm-eval that it is asked; None for a measure that asks none."""

    parent: PreTrainedModel | None = None
    """The model that it was made from, on `device`; None for a measure that doesn't look at it."""

    timed: dict[str, Any] = attrs.field(factory=dict)
    """What was measured of reading it, which is no part of what is measured of the model."""

    @classmethod
    def open(cls, inputs: Mapping[str, Path], asked: Measure, device: torch.device) -> "LoadedModel":
        """Load the input `model`, and find the tokens among the inputs if the measure reads text.

        Raises:
            StageError: it is no whole model, the measure says nothing of it, or the tokens are another tokenizer's.
        """
        directory = inputs["model"]
        artifacts.open_artifact(directory, "model")
        card = cards.read(directory, ModelCard)
        misfit = asked.misfit(card.objective)
        if misfit is not None:
            raise StageError(f"{directory}: {misfit}")
        tokens = Tokens.of(inputs) if asked.reads_text else None
        if tokens is not None:
            check_tokenizer(directory, card, tokens)
            tokens.say_what_is_lost("heldout")
        model = folders.load_model(directory).to(device)
        check_embeddings(directory, card, model)
        parent = folders.load_model(inputs["parent"]).to(device) if asked.reads_parent else None
        return cls(
            directory=directory,
            card=card,
            transformers_model=model,
            device=device,
            tokens=tokens,
            examples=inputs["examples"] if asked.reads_examples else None,
            task_files=inputs[TASK_FILES] if TASK_FILES in asked.inputs else None,
            parent=parent,
        )

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Its tokenizer."""
        return folders.load_tokenizer(self.directory)

    @property
    def sequence_length(self) -> int:
        """Tokens that it read at once in training."""
        return self.card.objective.sequence_length

    @property
    def text(self) -> Tokens:
        """The text in its own tokens.

        Raises:
            StageError: there is none.
        """
        if self.tokens is None:
            raise StageError("the measure declares `reads_text = False`, and asks for held-out text; leave that out")
        return self.tokens

    def sequences(self, limit: int) -> Iterator[np.ndarray]:
        """At most `limit` held-out sequences; see `MeasuredModel`."""
        for text in heldout_texts(self.text, limit, self.sequence_length):
            yield from map(text.sequence, range(text.num_windows))

    def texts(self, limit: int) -> Iterator[str]:
        """At most `limit` held-out documents; see `MeasuredModel`."""
        for row in heldout_token_rows(self.text, limit):
            yield str(self.tokenizer.decode(row.tolist(), clean_up_tokenization_spaces=False))


@singledispatch
def measure(asked: Measure, model: LoadedModel, output: Path) -> Numbers:
    """Measure a model.

    Args:
        asked: what is measured.
        model: the model.
        output: a folder, which gets the measure's `files`.

    Returns:
        What `metrics.json` holds.

    Raises:
        StageError: the measure has no function here, the held-out text is too short for it, or a number isn't finite.
    """
    raise StageError(f"nothing measures {type(asked).__name__}; derive it from CustomMeasure or CustomScores")


@measure.register
def _perplexity(asked: Perplexity, model: LoadedModel, output: Path) -> Numbers:
    return _token_losses(asked, score_of(model.card.objective, model.text.open("heldout")), model, output)


@measure.register
def _pseudo_perplexity(asked: PseudoPerplexity, model: LoadedModel, output: Path) -> Numbers:
    score = PseudoScore(vocabulary=model.text.open("heldout").masked_vocabulary)
    return _token_losses(asked, score, model, output)


@measure.register
def _samples(asked: Samples, model: LoadedModel, output: Path) -> Numbers:
    complete = partial(
        folders.complete,
        model.transformers_model,
        model.tokenizer,
        max_new_tokens=asked.max_new_tokens,
        end_of_text_id=model.card.end_of_text_id,
    )
    log.info("writes what follows each prompt")
    samples = [{"prompt": prompt, "completion": complete(prompt)} for prompt in told(asked.prompts, "writing")]
    artifacts.write_json(output / "samples.json", samples)
    return {}


@measure.register
def _layer_errors(asked: LayerErrors, model: LoadedModel, output: Path) -> Numbers:
    if model.parent is None:
        raise StageError(f"{model.directory}: {asked.tag} reads the model that this one was made from as well")
    length = model.sequence_length
    texts = heldout_texts(model.text, asked.max_tokens // length, length)
    batches = [
        folders.windows(text.tokens, [window], length)[:, :-1].to(model.device)
        for text in texts
        for window in range(text.num_windows)
    ]
    errors = layers.layer_errors(model.parent, model.transformers_model, batches)
    modules = {name: model.transformers_model.get_submodule(name) for name in errors}
    rows = [
        {"layer": name, "weights": modules[name].weight.numel(), "bits": layers.bits_of(modules[name])}
        | attrs.asdict(error)
        for name, error in errors.items()
    ]
    artifacts.write_jsonl(output / LAYERS, rows)
    worst = max(error.stream_error for error in errors.values())
    total = math.fsum(error.stream_error for error in errors.values())
    return {"layer_error_percent": 100 * total, "worst_layer_error_percent": 100 * worst}


@measure.register
def _task(asked: Task, model: LoadedModel, output: Path) -> Numbers:
    if model.examples is None:
        raise StageError(f"{model.directory}: {asked.tag} reads the examples of a task, and has none")
    return answers.measured(asked, model.card, model.directory, model.transformers_model, model.examples, output)


@measure.register
def _lmeval(asked: LMEval, model: LoadedModel, output: Path) -> Numbers:
    if model.task_files is None:
        raise StageError(f"{model.directory}: {asked.tag} reads files of tasks, and has none")
    return lmeval.measured(asked, model, model.task_files, output)


@measure.register
def _custom(asked: CustomMeasure, model: LoadedModel, output: Path) -> Numbers:
    return own.numbers(asked, model)


@measure.register
def _custom_scores(asked: CustomScores, model: LoadedModel, output: Path) -> Numbers:
    rows = own.scores(asked, model)
    by_score = {score: [row[score] for row in rows] for score in asked.better}
    found = {score: {"better": asked.better[score], "documents": each} for score, each in by_score.items()}
    artifacts.write_json(output / SCORES, found)
    return {score: math.fsum(each) / len(each) for score, each in by_score.items()}


def _token_losses(asked: TokenMeasure, score: Score, model: LoadedModel, output: Path) -> Numbers:
    """The score of the model and, below `unigram`, that of the unigram model on the same tokens.

    In a mixture loss and accuracy are the means over its corpora, weighted by their shares, and `corpora` holds the
    numbers of each.
    """
    tokens, length = model.text, model.sequence_length
    heldout = tokens.open("heldout")
    too_few = asked.too_few_tokens(length, min(heldout.fractions))
    if too_few is not None:
        raise StageError(f"{asked.tag}.max_tokens: {too_few}")
    texts = heldout_texts(tokens, asked.max_tokens // length, length)
    log.info("measures %s tokens of held-out text", f"{length * sum(text.num_windows for text in texts):,}")
    of_unigram = [DocumentSums.of(text, score.of_frequencies(text)) for text in texts]
    started = time.monotonic()
    of_model = [DocumentSums.of(text, score.of_model(model.transformers_model, text)) for text in texts]
    read = sum(text.num_targets for text in texts)
    model.timed["tokens_per_second"] = round(read / (time.monotonic() - started), 1)
    means = [sums.means for sums in of_model]
    for each in means:
        _refuse_diverged(each.loss, model)
    artifacts.write_jsonl(output / "documents.jsonl", (row for sums in of_model for row in sums.rows()))
    unigram = _summary(score, texts, [sums.means for sums in of_unigram], heldout.fractions)
    return _summary(score, texts, means, heldout.fractions) | {"unigram": unigram}


def _refuse_diverged(loss: float, model: LoadedModel) -> None:
    where = f"{model.directory}: the loss on held-out text is {loss:.6g} nats a token"
    # Not `>`, which is false for NaN.
    if not loss <= _LARGEST_LOSS:
        raise StageError(f"{where}, so its perplexity is no number: the training has diverged; {own.HELPS}")
    guessing = math.log(model.card.vocab_size)
    if loss > 2 * guessing:
        log.warning("%s, and guessing has %.4g: the training has diverged; %s", where, guessing, own.HELPS)


def _summary(score: Score, texts: list[HeldoutText], means: list[Means], fractions: Iterable[float]) -> Numbers:
    """Numbers of the mixture and, if there are several corpora, of each."""
    shares = list(fractions)
    found = _numbers(score, Means.mixed(means, shares))
    if len(means) > 1:
        found["corpora"] = {
            text.corpus: _numbers(score, each) | {"share": share}
            for text, each, share in zip(texts, means, shares, strict=True)
        }
    return found


def _numbers(score: Score, means: Means) -> Numbers:
    return score.summary(means) | ({"text_lost_percent": 100 * means.lost} if means.lost > lost.MOST else {})
