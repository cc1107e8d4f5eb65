"""How well a model predicts held-out text: a score for each way of predicting, and for the unigram model as well.

The unigram model knows how often each token occurs in the training split of the corpus, and nothing else.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from functools import singledispatch
from typing import Protocol

import attrs
import numpy as np
import torch
from torch.nn import functional
from transformers import PreTrainedModel

from llmrecipe import lost
from llmrecipe.engines.evaluation.documents import Means, Predicted
from llmrecipe.engines.evaluation.heldout import HeldoutText
from llmrecipe.engines.models import folders
from llmrecipe.engines.tokens.masking import MaskedVocabulary, mask
from llmrecipe.engines.tokens.mixture import TokenMixture
from llmrecipe.engines.tokens.packing import PackedDocuments
from llmrecipe.errors import StageError
from llmrecipe.progress import told
from llmrecipe.recipe.evolve import evolve
from llmrecipe.recipe.kinds import Objective
from llmrecipe.recipe.objective import MaskedLM, MultiMaskLM

_LOGITS_PER_BATCH = 1 << 22

_TOKENS_PER_BATCH = 1 << 14

_SEED = 0
"""Decides the masks: the same for every model, so models are measured on the same tokens."""


class Score(Protocol):
    """A way of predicting the tokens of a text, and the numbers that say how well it went."""

    def of_frequencies(self, text: HeldoutText) -> Iterator[Predicted]:
        """What the unigram model makes of the text, in batches."""

    def of_model(self, model: PreTrainedModel, text: HeldoutText) -> Iterator[Predicted]:
        """What `model` makes of the text, in batches."""

    def summary(self, means: Means) -> dict[str, float]:
        """The numbers that are shown, by name."""


@attrs.frozen(kw_only=True)
class CausalScore:
    """Every token is predicted from those before it.

    Each window is read by itself: its first target is predicted from one token, its last from `sequence_length`, or
    from what there is of its document (`CausalLM.restart_at_documents`).

    `perplexity` = exp(loss); `bits_per_byte` = loss / ln 2 / bytes, where bytes are those by target. The cost of an
    end-of-text token is counted, because a text isn't known before its end is. Of a text read whole, this is the length
    in bits of the text compressed by the model over the length of the text, and doesn't depend on the tokenizer. Where
    the tokens lost text, there is none: what isn't read costs nothing.
    """

    objective: Objective
    """What the model was trained to predict."""

    def of_frequencies(self, text: HeldoutText) -> Iterator[Predicted]:
        """What the unigram model makes of the text, window by window."""
        losses = np.log(text.training_counts.sum()) - np.log(text.training_counts)
        for index in range(text.num_windows):
            yield Predicted(positions=_targets(text, range(index, index + 1)), losses=losses[text.window(index)[1:]])

    @torch.inference_mode()
    def of_model(self, model: PreTrainedModel, text: HeldoutText) -> Iterator[Predicted]:
        """What `model` makes of the text, in batches."""
        batch_size = max(1, _LOGITS_PER_BATCH // (text.sequence_length * model.config.vocab_size))
        for start in told(range(0, text.num_windows, batch_size), "measuring"):
            indices = range(start, min(start + batch_size, text.num_windows))
            batch = folders.windows(text.tokens, indices, text.sequence_length).to(model.device)
            inputs, is_end = batch[:, :-1], batch[:, :-1] == text.tokens.end_of_text_id
            documents = PackedDocuments(is_end) if self.objective.restart_at_documents else None
            predicted = folders.logits(model, inputs, documents)
            losses = functional.cross_entropy(predicted.flatten(0, 1), batch[:, 1:].flatten(), reduction="none")
            yield Predicted(positions=_targets(text, indices), losses=losses.double().cpu().numpy())

    def summary(self, means: Means) -> dict[str, float]:
        """Perplexity and, if the tokens hold the text, bits per byte."""
        numbers = {"perplexity": math.exp(means.loss)}
        if means.lost <= lost.MOST:
            numbers["bits_per_byte"] = means.loss / math.log(2) / means.bytes
        return numbers


def _targets(text: HeldoutText, windows: range) -> np.ndarray:
    """Places in the split of all targets of these windows."""
    return np.arange(windows.start * text.sequence_length, windows.stop * text.sequence_length) + 1


@attrs.frozen(kw_only=True)
class Masked:
    """Sequences in which tokens are masked."""

    input_ids: np.ndarray
    """What the model reads, `int64[sequences, length]`."""

    rows: np.ndarray
    """The sequence of each token that is to be predicted, `int64[labels]`."""

    columns: np.ndarray
    """Its place in the sequence, `int64[labels]`."""

    answers: np.ndarray
    """The token, `int64[labels]`."""

    positions: np.ndarray
    """Its place in the split, `int64[labels]`."""


@attrs.frozen(kw_only=True)
class _MaskScore(ABC):
    """Tokens are masked, and predicted from both sides; the unigram model always says the most frequent token."""

    vocabulary: MaskedVocabulary
    """What masking needs to know of the tokenizer."""

    def of_frequencies(self, text: HeldoutText) -> Iterator[Predicted]:
        """What the unigram model makes of the masked tokens, in batches."""
        counts = np.where(self.vocabulary.is_special, 0, text.training_counts)
        likeliest, total = counts.argmax(), np.log(counts.sum())
        for batch in self._batches(text):
            yield Predicted(
                positions=batch.positions,
                losses=total - np.log(counts[batch.answers]),
                is_likeliest=batch.answers == likeliest,
            )

    @torch.inference_mode()
    def of_model(self, model: PreTrainedModel, text: HeldoutText) -> Iterator[Predicted]:
        """What `model` makes of the masked tokens, in batches."""
        for batch in self._batches(text):
            arrays = (batch.input_ids, batch.rows, batch.columns, batch.answers)
            input_ids, rows, columns, answers = (torch.from_numpy(array).to(model.device) for array in arrays)
            predicted = folders.masked_logits(model, input_ids, rows, columns)
            losses = functional.cross_entropy(predicted, answers, reduction="none")
            yield Predicted(
                positions=batch.positions,
                losses=losses.double().cpu().numpy(),
                is_likeliest=(predicted.argmax(-1) == answers).cpu().numpy(),
            )

    @abstractmethod
    def _batches(self, text: HeldoutText) -> Iterator[Masked]:
        """The masked sequences of a text."""


@attrs.frozen(kw_only=True)
class MaskedScore(_MaskScore):
    """Tokens are masked as in training, but all by the mask token: one left as it is would tell the answer.

    `masked_perplexity` = exp(loss); `masked_accuracy_percent` is the share of them whose likeliest token is right.
    Special tokens are never masked, and the unigram model knows that.
    """

    objective: MaskedLM | MultiMaskLM
    """What the model was trained to predict."""

    def summary(self, means: Means) -> dict[str, float]:
        """Masked perplexity and accuracy."""
        return {"masked_perplexity": math.exp(means.loss), "masked_accuracy_percent": 100 * means.accuracy}

    def _batches(self, text: HeldoutText) -> Iterator[Masked]:
        objective = evolve(self.objective, mask_share=1.0, random_share=0.0)
        at_once = max(1, _TOKENS_PER_BATCH // text.sequence_length)
        for start in told(range(0, text.num_windows, at_once), "measuring"):
            windows = range(start, min(start + at_once, text.num_windows))
            tokens = [text.sequence(window) for window in windows]
            masked = [
                mask(row, objective, self.vocabulary, seed=_SEED, epoch=0, window=window)
                for row, window in zip(tokens, windows, strict=True)
            ]
            rows = np.repeat(np.arange(len(masked)), [len(sequence.positions) for sequence in masked])
            columns = np.concatenate([sequence.positions for sequence in masked])
            yield Masked(
                input_ids=np.stack([sequence.input_ids for sequence in masked]),
                rows=rows,
                columns=columns,
                answers=np.stack(tokens)[rows, columns],
                positions=(start + rows) * text.sequence_length + columns,
            )


@attrs.frozen(kw_only=True)
class PseudoScore(_MaskScore):
    """Each token is masked alone, but for special ones, and predicted from all others of its sequence.

    `pseudo_perplexity` = exp(loss), where −loss is the mean of the pseudo-log-likelihoods of Salazar et al. (2020) over
    all tokens of all sequences.
    """

    def summary(self, means: Means) -> dict[str, float]:
        """Pseudo-perplexity."""
        return {"pseudo_perplexity": math.exp(means.loss)}

    def _batches(self, text: HeldoutText) -> Iterator[Masked]:
        at_once = max(1, _TOKENS_PER_BATCH // text.sequence_length)
        for window in told(range(text.num_windows), "measuring"):
            tokens = text.sequence(window)
            places = np.flatnonzero(~self.vocabulary.is_special[tokens])
            for start in range(0, len(places), at_once):
                columns = places[start : start + at_once]
                rows = np.arange(len(columns))
                input_ids = np.tile(tokens, (len(columns), 1))
                input_ids[rows, columns] = self.vocabulary.mask_id
                yield Masked(
                    input_ids=input_ids,
                    rows=rows,
                    columns=columns,
                    answers=tokens[columns],
                    positions=window * text.sequence_length + columns,
                )


@singledispatch
def score_of(objective: Objective, heldout: TokenMixture) -> Score:
    """How a model with this objective is scored on held-out tokens: as it learned to predict.

    Raises:
        StageError: no score is known for the objective, or its tokenizer has no mask token and needs one.
    """
    if not objective.is_masked:
        return CausalScore(objective=objective)
    raise StageError(f"no score for {type(objective).__name__}; register one with `scores.score_of.register`")


@score_of.register(MaskedLM)
@score_of.register(MultiMaskLM)
def _(objective: MaskedLM | MultiMaskLM, heldout: TokenMixture) -> Score:
    return MaskedScore(objective=objective, vocabulary=heldout.masked_vocabulary)
