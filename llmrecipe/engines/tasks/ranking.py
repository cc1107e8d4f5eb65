"""How far up in rankings what is relevant stands."""

import math
from collections.abc import Collection, Sequence

import numpy as np

from llmrecipe.engines.tasks.score import Score
from llmrecipe.errors import StageError

_Relevant = Sequence[Collection[int]]
"""Of each query, the candidates that are relevant."""


def ranked(similarities: np.ndarray) -> np.ndarray:
    """The candidates of each query, most similar first, of equal ones the first: `int64[queries, candidates]`.

    Args:
        similarities: of each query to each candidate, `[queries, candidates]`.

    Raises:
        StageError: one is no number.
    """
    if np.isnan(similarities).any():
        query, candidate = np.argwhere(np.isnan(similarities))[0]
        raise StageError(
            f"query {query} and candidate {candidate} (from 0) have a similarity that is no number, and can't be "
            "ranked; look at what the model makes of both"
        )
    return np.argsort(-similarities, axis=1, kind="stable")


def recall(rankings: np.ndarray, relevant: _Relevant, k: int) -> Score:
    """The share of its relevant candidates that a query has among its first `k`; the mean over queries.

    Of queries with one relevant candidate each it is the accuracy of the first `k`. A query without any counts for
    nothing, here and below, as in trec_eval.
    """
    places = _places(rankings[:, :k], relevant)
    return _mean([len(found) / max(1, len(own)) for found, own in zip(places, relevant, strict=True)], relevant)


def ndcg(rankings: np.ndarray, relevant: _Relevant, k: int) -> Score:
    """The normalized discounted cumulative gain of the first `k` (Järvelin and Kekäläinen 2002); the mean over queries.

    A relevant candidate gains 1, divided by the logarithm of its rank plus 1 to the base 2; the best ranking has 1.
    """
    places = _places(rankings[:, :k], relevant)
    best = [_gain(range(max(1, min(k, len(own))))) for own in relevant]
    return _mean([_gain(found) / most for found, most in zip(places, best, strict=True)], relevant)


def reciprocal_rank(rankings: np.ndarray, relevant: _Relevant) -> Score:
    """1 over the rank of the first relevant candidate, 0 if none is ranked; the mean over queries (MRR)."""
    return _mean([1 / (found[0] + 1) if found else 0.0 for found in _places(rankings, relevant)], relevant)


def _places(rankings: np.ndarray, relevant: _Relevant) -> list[list[int]]:
    """Where in its ranking each query has relevant candidates, from 0."""
    return [
        np.flatnonzero(np.isin(ranking, list(own))).tolist() for ranking, own in zip(rankings, relevant, strict=True)
    ]


def _gain(places: Sequence[int]) -> float:
    return math.fsum(1 / math.log2(place + 2) for place in places)


def _mean(values: list[float], relevant: _Relevant) -> Score:
    return Score(better="higher", above=values, below=[float(bool(own)) for own in relevant])
