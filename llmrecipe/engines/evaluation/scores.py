"""How well a model predicts held-out text: of each objective, and of the unigram model beside it.

The unigram model knows how often each token occurs in the training split of the corpus, and nothing else.
"""

import math
from collections.abc import Iterator
from typing import Protocol

import attrs
import numpy as np
import torch
from torch.nn import functional
from transformers import PreTrainedModel

from llmrecipe.engines.evaluation.heldout import HeldoutText
from llmrecipe.engines.models import folders
from llmrecipe.engines.tokens.masking import MaskedVocabulary, mask
from llmrecipe.engines.tokens.packing import PackedDocuments
from llmrecipe.errors import StageError
from llmrecipe.recipe.objective import CausalLM, MaskedLM, MultiMaskLM

Means = dict[str, float]
"""Means over what is predicted: `loss` in nats, and what else a score needs."""

_LOGITS_PER_BATCH = 1 << 22

_TOKENS_PER_BATCH = 1 << 14

_SEED = 0
"""Of the masks: the same for every recipe, so that models are measured on the same tokens."""


class Score(Protocol):
    """What is measured of a text, and how it is told."""

    def of_frequencies(self, text: HeldoutText) -> Means:
        """The unigram model's."""

    def of_model(self, model: PreTrainedModel, text: HeldoutText) -> Means:
        """A model's."""

    def summary(self, means: Means) -> dict[str, float]:
        """The numbers that are shown."""


@attrs.frozen(kw_only=True)
class CausalScore:
    """Every token from those before it.

    Each window is read by itself: its first target is predicted from one token, its last from `sequence_length`, or
    from what there is of its document (`CausalLM.restart_at_documents`).

    `perplexity` = exp(loss); `bits_per_byte` = loss / ln 2 / bytes, where bytes are those by target. The cost of an
    end-of-text token is counted, because a text isn't known before its end is. Of a text read whole, this is the length
    in bits of the text compressed by the model over the length of the text, and doesn't depend on the tokenizer.
    """

    objective: CausalLM

    def of_frequencies(self, text: HeldoutText) -> Means:
        """The unigram model's."""
        counts = text.training_counts
        return self._means(text, float(-(text.target_counts * np.log(counts / counts.sum())).sum()))

    @torch.inference_mode()
    def of_model(self, model: PreTrainedModel, text: HeldoutText) -> Means:
        """A model's."""
        batch_size = max(1, _LOGITS_PER_BATCH // (text.sequence_length * model.config.vocab_size))
        nats = 0.0
        for start in range(0, text.num_windows, batch_size):
            indices = range(start, min(start + batch_size, text.num_windows))
            batch = folders.windows(text.tokens, indices, text.sequence_length).to(model.device)
            inputs, is_end = batch[:, :-1], batch[:, :-1] == text.tokens.end_of_text_id
            documents = PackedDocuments(is_end) if self.objective.restart_at_documents else None
            predicted = folders.logits(model, inputs, documents)
            losses = functional.cross_entropy(predicted.flatten(0, 1), batch[:, 1:].flatten(), reduction="none")
            nats += losses.double().sum().item()
        return self._means(text, nats)

    def _means(self, text: HeldoutText, nats: float) -> Means:
        return {"loss": nats / text.num_targets, "bytes": text.bytes_per_target}

    def summary(self, means: Means) -> dict[str, float]:
        """Perplexity and bits per byte."""
        return {
            "perplexity": math.exp(means["loss"]),
            "bits_per_byte": means["loss"] / math.log(2) / means["bytes"],
        }


@attrs.frozen(kw_only=True)
class Masked:
    """Sequences in which tokens are masked."""

    input_ids: np.ndarray
    """What the model reads, `int64[sequences, length]`."""

    rows: np.ndarray
    positions: np.ndarray
    answers: np.ndarray
    """Sequence, place and token of each one that is to be predicted, `int64[labels]`."""


@attrs.frozen(kw_only=True)
class MaskedScore:
    """Tokens masked as in the training, but all by the mask token: one left as it is would tell the answer.

    `masked_perplexity` = exp(loss); `masked_accuracy_percent` is the share of them whose likeliest token is right. The
    unigram model always says the most frequent token; special tokens are never masked, and it knows that.
    """

    objective: MaskedLM | MultiMaskLM
    vocabulary: MaskedVocabulary

    def of_frequencies(self, text: HeldoutText) -> Means:
        """The unigram model's."""
        return _of_frequencies(self._batches(text), text, self.vocabulary)

    def of_model(self, model: PreTrainedModel, text: HeldoutText) -> Means:
        """A model's."""
        return _of_model(self._batches(text), model)

    def summary(self, means: Means) -> dict[str, float]:
        """Masked perplexity and accuracy."""
        return {"masked_perplexity": math.exp(means["loss"]), "masked_accuracy_percent": 100 * means["accuracy"]}

    def _batches(self, text: HeldoutText) -> Iterator[Masked]:
        objective = attrs.evolve(self.objective, mask_share=1.0, random_share=0.0)
        at_once = max(1, _TOKENS_PER_BATCH // text.sequence_length)
        for start in range(0, text.num_windows, at_once):
            windows = range(start, min(start + at_once, text.num_windows))
            tokens = [text.sequence(window) for window in windows]
            masked = [
                mask(row, objective, self.vocabulary, seed=_SEED, epoch=0, window=window)
                for row, window in zip(tokens, windows, strict=True)
            ]
            positions = [sequence.positions for sequence in masked]
            yield Masked(
                input_ids=np.stack([sequence.input_ids for sequence in masked]),
                rows=np.repeat(np.arange(len(masked)), [len(places) for places in positions]),
                positions=np.concatenate(positions),
                answers=np.concatenate([row[places] for row, places in zip(tokens, positions, strict=True)]),
            )


@attrs.frozen(kw_only=True)
class PseudoScore:
    """Each token masked alone, but for special ones, and predicted from all others of its sequence.

    `pseudo_perplexity` = exp(loss), where −loss is the mean of the pseudo-log-likelihoods of Salazar et al. (2020) over
    all tokens of all sequences.
    """

    vocabulary: MaskedVocabulary

    def of_frequencies(self, text: HeldoutText) -> Means:
        """The unigram model's."""
        return _of_frequencies(self._batches(text), text, self.vocabulary)

    def of_model(self, model: PreTrainedModel, text: HeldoutText) -> Means:
        """A model's."""
        return _of_model(self._batches(text), model)

    def summary(self, means: Means) -> dict[str, float]:
        """Pseudo-perplexity."""
        return {"pseudo_perplexity": math.exp(means["loss"])}

    def _batches(self, text: HeldoutText) -> Iterator[Masked]:
        at_once = max(1, _TOKENS_PER_BATCH // text.sequence_length)
        for window in range(text.num_windows):
            tokens = text.sequence(window)
            places = np.flatnonzero(~self.vocabulary.is_special[tokens])
            for start in range(0, len(places), at_once):
                positions = places[start : start + at_once]
                rows = np.arange(len(positions))
                input_ids = np.tile(tokens, (len(positions), 1))
                input_ids[rows, positions] = self.vocabulary.mask_id
                yield Masked(input_ids=input_ids, rows=rows, positions=positions, answers=tokens[positions])


def _of_frequencies(batches: Iterator[Masked], text: HeldoutText, vocabulary: MaskedVocabulary) -> Means:
    parts = [batch.answers for batch in batches]
    if not any(map(len, parts)):
        raise StageError(
            f"{text.directory}: the held-out sequences hold nothing but special tokens, which are never masked; use "
            "other text, or a tokenizer that knows its characters"
        )
    answers = np.concatenate(parts)
    counts = np.where(vocabulary.is_special, 0, text.training_counts)
    losses = np.log(counts.sum()) - np.log(counts[answers])
    return {"loss": float(losses.mean()), "accuracy": float((answers == counts.argmax()).mean())}


@torch.inference_mode()
def _of_model(batches: Iterator[Masked], model: PreTrainedModel) -> Means:
    nats, right, count = 0.0, 0, 0
    for batch in batches:
        arrays = (batch.input_ids, batch.rows, batch.positions, batch.answers)
        input_ids, rows, positions, answers = (torch.from_numpy(array).to(model.device) for array in arrays)
        predicted = folders.masked_logits(model, input_ids, rows, positions)
        nats += functional.cross_entropy(predicted, answers, reduction="none").double().sum().item()
        right += int((predicted.argmax(-1) == answers).sum())
        count += len(answers)
    return {"loss": nats / count, "accuracy": right / count}
