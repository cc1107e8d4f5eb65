"""How sure a difference between two models is: what it is on texts drawn from the documents of the one there is."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import attrs
import numpy as np

from llmrecipe.engines.tasks.resampling import drawn, ends, generator


@attrs.frozen(kw_only=True, eq=False)
class DocumentLosses:
    """What predicting some documents cost a model, `float64[documents]` each."""

    losses: np.ndarray
    """The summed loss of each, in nats."""

    tokens: np.ndarray
    """How many tokens it is summed over."""

    sizes: np.ndarray
    """What a mean is over: these tokens, or their bytes."""

    def sums(self, drawn: np.ndarray) -> np.ndarray:
        """Loss and size by token of texts that consist of the documents `drawn[texts, documents]`, `[2, texts]`."""
        tokens = self.tokens[drawn].sum(axis=1)
        return np.stack([self.losses[drawn].sum(axis=1), self.sizes[drawn].sum(axis=1)]) / tokens


class PairedCorpus(NamedTuple):
    """Documents of a corpus, and its share in what was measured."""

    reference: DocumentLosses
    model: DocumentLosses
    share: float

    @property
    def size(self) -> int:
        """How many documents they are."""
        return len(self.model.tokens)


def spread(corpora: Mapping[str, PairedCorpus]) -> tuple[float, float]:
    """How far the difference of the mean losses, reference minus model, may be from what it is on these documents.

    These are the lower and the upper end of the 95 % interval, minus the difference itself, by the percentile method
    (Efron 1979). The documents of each corpus are drawn with replacement, as many as there are; a text has the losses
    of both models of a document, since both find the same ones hard.
    """
    of = generator()
    samples = _differences({name: _sums(each, drawn(each.size, of)) for name, each in corpora.items()}, corpora)
    (here,) = _differences({name: _sums(each, [np.arange(each.size)[None]]) for name, each in corpora.items()}, corpora)
    low, high = ends(samples)
    return low - float(here), high - float(here)


def ratio(*scores: np.ndarray) -> tuple[float, float] | None:
    """The ends of the 95 % interval of a ratio of means of scores of the same documents, `float64[documents]` each.

    Of four scores, it is the ratio of the first two over that of the others. Documents are drawn as in `spread`. None
    if a text that was drawn leaves nothing to divide by.
    """
    samples = drawn(len(scores[0]), generator())
    means = np.concatenate([np.stack([score[each].mean(axis=1) for score in scores]) for each in samples], axis=1)
    if not means[1:].all():
        return None
    quotients = means[0] / means[1]
    if len(means) > 2:
        quotients = quotients / (means[2] / means[3])
    return ends(quotients)


def _sums(pair: PairedCorpus, texts: Iterable[np.ndarray]) -> np.ndarray:
    """Loss and size by token of each text, for the reference and for the model: `[2, 2, texts]`."""
    parts = [np.stack([side.sums(drawn) for side in (pair.reference, pair.model)]) for drawn in texts]
    return np.concatenate(parts, axis=2)


def _differences(sums: Mapping[str, np.ndarray], corpora: Mapping[str, PairedCorpus]) -> np.ndarray:
    """The difference of the mean losses of each text."""
    mixed = np.asarray(sum(corpora[name].share * each for name, each in sums.items()))
    before, after = mixed[:, 0] / mixed[:, 1]
    found: np.ndarray = before - after
    return found
