"""Rankings: the numbers of scikit-learn, and by hand."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import label_ranking_average_precision_score, ndcg_score, top_k_accuracy_score

from llmrecipe.engines.tasks.ranking import ndcg, ranked, recall, reciprocal_rank
from llmrecipe.errors import StageError

CANDIDATES = 6

similarities = st.permutations(range(CANDIDATES))
relevant = st.sets(st.integers(0, CANDIDATES - 1), min_size=1)
queries = st.lists(st.tuples(similarities, relevant), min_size=1, max_size=5)


@given(queries, st.integers(1, CANDIDATES))
def test_ndcg_is_that_of_scikit_learn(pairs, k):
    found = np.array([each[0] for each in pairs], dtype=float)
    own = [each[1] for each in pairs]
    truth = np.array([[float(candidate in each) for candidate in range(CANDIDATES)] for each in own])
    assert ndcg(ranked(found), own, k).value == pytest.approx(ndcg_score(truth, found, k=k))


@given(st.lists(st.tuples(similarities, st.integers(0, CANDIDATES - 1)), min_size=1), st.integers(1, CANDIDATES - 1))
def test_recall_of_one_relevant_candidate_is_the_accuracy_of_the_first_k(pairs, k):
    found = np.array([each[0] for each in pairs], dtype=float)
    own = [each[1] for each in pairs]
    expected = top_k_accuracy_score(own, found, k=k, labels=range(CANDIDATES))
    assert recall(ranked(found), [{each} for each in own], k).value == pytest.approx(expected)


@given(st.lists(st.tuples(similarities, st.integers(0, CANDIDATES - 1)), min_size=1))
def test_the_reciprocal_rank_of_one_relevant_candidate_is_its_average_precision(pairs):
    found = np.array([each[0] for each in pairs], dtype=float)
    own = [{each[1]} for each in pairs]
    truth = np.array([[candidate in each for candidate in range(CANDIDATES)] for each in own])
    expected = label_ranking_average_precision_score(truth, found)
    assert reciprocal_rank(ranked(found), own).value == pytest.approx(expected)


def test_rankings_by_hand():
    rankings, own = np.array([[3, 1, 0, 2], [0, 1, 2, 3]]), [{1, 2}, {0}]
    assert recall(rankings, own, 2).above == [0.5, 1.0]
    assert reciprocal_rank(rankings, own).above == [0.5, 1.0]
    # Ranks 2 and 4, where the best are 1 and 2.
    gained, best = 1 / math.log2(3) + 1 / math.log2(5), 1 + 1 / math.log2(3)
    assert ndcg(rankings, own, 4).above == [pytest.approx(gained / best), 1.0]


def test_a_ranking_that_lacks_what_is_relevant_has_nothing():
    rankings, own = np.array([[0, 1]]), [{7}]
    for score in (recall(rankings, own, 2), ndcg(rankings, own, 2), reciprocal_rank(rankings, own)):
        assert (score.above, score.below) == ([0.0], [1.0])


def test_a_query_without_relevant_candidates_counts_for_nothing():
    rankings, own = np.array([[0, 1], [1, 0]]), [{0}, set()]
    for score in (recall(rankings, own, 1), ndcg(rankings, own, 1), reciprocal_rank(rankings, own)):
        assert (score.above, score.below, score.value) == ([1.0, 0.0], [1.0, 0.0], 1.0)


def test_of_equal_candidates_the_first_is_ranked_first():
    many = np.zeros((1, 1000))
    many[0, 500] = 1.0
    assert ranked(many)[0].tolist() == [500, *range(500), *range(501, 1000)]


def test_a_similarity_that_is_no_number_is_refused():
    with pytest.raises(StageError, match="query 0 and candidate 1 "):
        ranked(np.array([[0.5, math.nan]]))
