"""How near written texts are to what others wrote: BLEU, chrF and ROUGE."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import attrs
import numpy as np
from sacrebleu.metrics.base import Metric
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF

from llmrecipe.engines.tasks.score import Pooled, Score, mean
from llmrecipe.errors import StageError

_ROUGE = ("rouge1", "rouge2", "rougeL")


@attrs.frozen(kw_only=True, eq=False)
class Overlaps:
    """What texts have in common with others."""

    scores: dict[str, Score]
    """Numbers that are means over texts."""

    pooled: dict[str, Pooled]
    """Those of all texts together."""

    signatures: dict[str, str]
    """How sacrebleu computed those that are its."""

    @property
    def numbers(self) -> dict[str, Any]:
        """All of them."""
        means = {name: each.value for name, each in self.scores.items()}
        together = {name: each.value for name, each in self.pooled.items()}
        return {**means, **together, "signatures": self.signatures}


def overlaps(said: Sequence[str], references: Sequence[Sequence[str]]) -> Overlaps:
    """What texts have in common with their references.

    BLEU (Papineni et al. 2002) and chrF (Popović 2015) are sacrebleu's, from 0 to 100. `bleu` and `chrf` are those of
    all texts together, which are no means of those of single ones. `sentence_bleu` and `sentence_chrf` are means over
    texts, of which the one takes only the lengths of n-grams that a text has. BLEU takes words apart as `13a` does,
    which is for languages with spaces between them.

    `rouge1`, `rouge2` and `rougeL` (Lin 2004) are means of rouge-score's F1, from 0 to 1, without a stemmer. ROUGE
    reads letters from a to z and digits, and nothing else: a text in another script has none of it.

    Args:
        said: what a model wrote.
        references: what others wrote in its place, any number of texts for each; ROUGE takes the best of them.

    Raises:
        StageError: a text has nothing to be compared with.
    """
    _check(references)
    # sacrebleu has the first of all references together, then the second.
    most = max(map(len, references))
    columns = [[each[place] if place < len(each) else None for each in references] for place in range(most)]
    together: Mapping[str, Metric] = {"bleu": BLEU(), "chrf": CHRF()}
    pooled = {
        name: Pooled(counts=_counts(metric, said, columns), number=partial(_number, metric))
        for name, metric in together.items()
    }
    alone: Mapping[str, Metric] = {"sentence_bleu": BLEU(effective_order=True), "sentence_chrf": CHRF()}
    scores = {
        name: mean([_number(metric, row) for row in _counts(metric, said, columns)]) for name, metric in alone.items()
    }
    # They know how only when they have counted.
    signatures = {name: metric.get_signature().format() for name, metric in {**together, **alone}.items()}
    return Overlaps(scores=scores | _rouge(said, references), pooled=pooled, signatures=signatures)


def _check(references: Sequence[Sequence[str]]) -> None:
    for number, each in enumerate(references, 1):
        if not each:
            raise StageError(
                f"text {number:,} of {len(references):,} has no reference to be compared with; give it one"
            )


def _counts(metric: Metric, said: Sequence[str], columns: Sequence[Sequence[str | None]]) -> np.ndarray:
    """What each text adds to the sums that a number is computed from, `int64[texts, sums]`."""
    # sacrebleu's own bootstrap is by these, too, but draws by a variable of the environment.
    return np.array(metric._extract_corpus_statistics(said, columns))  # type: ignore[arg-type]


def _number(metric: Metric, sums: np.ndarray) -> float:
    return float(metric._compute_score_from_stats(sums).score)  # type: ignore[arg-type]


def _rouge(said: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, Score]:
    # It imports nltk, which takes longer than all else that tasks import.
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(_ROUGE, use_stemmer=False)
    rows = [scorer.score_multi(own, text) for text, own in zip(said, references, strict=True)]
    return {name: mean([row[name].fmeasure for row in rows]) for name in _ROUGE}
