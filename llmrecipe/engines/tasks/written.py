"""How near written texts are to what others wrote: BLEU, chrF and ROUGE."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from sacrebleu.metrics.base import Metric
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF

from llmrecipe.engines.tasks.resampling import FEW, interval
from llmrecipe.engines.tasks.score import Score, mean
from llmrecipe.errors import StageError

_ROUGE = ("rouge1", "rouge2", "rougeL")


def overlaps(said: Sequence[str], references: Sequence[Sequence[str]]) -> tuple[dict[str, Any], dict[str, Score]]:
    """The numbers of texts, and those of them that are means over examples.

    BLEU (Papineni et al. 2002) and chrF (Popović 2015) are sacrebleu's, from 0 to 100. `bleu` and `chrf` are those of
    all texts together, which are no means of those of single ones: `intervals` holds the ends of their 95 % intervals,
    and `signatures` how sacrebleu computed them. `sentence_bleu` and `sentence_chrf` are means over texts, of which
    the one takes only the lengths of n-grams that a text has. BLEU takes words apart as `13a` does, which is for
    languages with spaces between them.

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
    numbers: dict[str, Any] = {"intervals": {}, "signatures": {}}
    scores: dict[str, Score] = {}
    together: Mapping[str, Metric] = {"bleu": BLEU(), "chrf": CHRF()}
    for name, metric in together.items():
        counts = _counts(metric, said, columns)
        numbers[name] = _number(metric, counts.sum(axis=0))
        if len(said) >= FEW:
            low, high = interval(counts, partial(_number, metric))
            numbers["intervals"][name] = {"low": low, "high": high}
        numbers["signatures"][name] = metric.get_signature().format()
    alone: Mapping[str, Metric] = {"sentence_bleu": BLEU(effective_order=True), "sentence_chrf": CHRF()}
    for name, metric in alone.items():
        scores[name] = mean([_number(metric, row) for row in _counts(metric, said, columns)])
        numbers["signatures"][name] = metric.get_signature().format()
    scores |= _rouge(said, references)
    return numbers | {name: score.value for name, score in scores.items()}, scores


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
