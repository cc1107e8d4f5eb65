"""Intervals are as wide as closed forms say."""

import numpy as np
import pytest

from llmrecipe.engines.evaluation.bootstrap import DocumentLosses, PairedCorpus, ratio, spread

Z = 1.96
"""Standard deviations within which 95 % of a normal distribution lie, on each side."""


def losses(means: np.ndarray, tokens: np.ndarray) -> DocumentLosses:
    return DocumentLosses(losses=means * tokens, tokens=tokens, sizes=tokens)


def corpus(seed: int, documents: int, deviation: float, share: float = 1.0) -> PairedCorpus:
    """Documents of one length, of which some are far harder than others, but for both models."""
    generator = np.random.default_rng(seed)
    hard, tokens = generator.normal(5.0, 2.0, documents), np.full(documents, 100.0)
    lost = generator.normal(0.1, deviation, documents)
    # Exactly as far spread as is asked for.
    lost = 0.1 + (lost - lost.mean()) * deviation / lost.std()
    return PairedCorpus(losses(hard, tokens), losses(hard + lost, tokens), share)


def test_an_interval_of_equal_documents_is_that_of_the_mean_of_their_differences():
    low, high = spread({"": corpus(1, documents=400, deviation=0.05)})
    wide = Z * 0.05 / np.sqrt(400)
    assert (low, high) == (pytest.approx(-wide, rel=0.06), pytest.approx(wide, rel=0.06))


def test_four_times_as_many_documents_halve_it():
    few, many = (spread({"": corpus(1, documents=count, deviation=0.05)}) for count in (100, 400))
    assert many[1] - many[0] == pytest.approx((few[1] - few[0]) / 2, rel=0.06)


def test_corpora_are_drawn_for_themselves_and_weigh_by_their_shares():
    parts = {"web": corpus(1, 100, 0.05, share=0.75), "code": corpus(2, 400, 0.2, share=0.25)}
    low, high = spread(parts)
    wide = Z * np.sqrt((0.75 * 0.05) ** 2 / 100 + (0.25 * 0.2) ** 2 / 400)
    assert high - low == pytest.approx(2 * wide, rel=0.06)


def test_a_document_weighs_by_its_tokens():
    # Of what is drawn, a mean is taken over the tokens: the short documents hardly count.
    tokens = np.array([1000.0] * 50 + [1.0] * 50)
    lost = np.array([0.1] * 50 + [5.0, -5.0] * 25)
    low, high = spread({"": PairedCorpus(losses(np.full(100, 4.0), tokens), losses(4.0 + lost, tokens), 1.0)})
    assert max(abs(low), abs(high)) < 0.002


def test_a_mean_by_byte_is_the_loss_of_all_tokens_over_all_bytes():
    generator = np.random.default_rng(3)
    tokens, size = generator.integers(50, 150, 300).astype(float), 4.0
    loss, lost = generator.normal(3.0, 1.0, 300), generator.normal(0.1, 0.05, 300)

    def by(sizes: np.ndarray) -> tuple[float, float]:
        before = DocumentLosses(losses=loss * tokens, tokens=tokens, sizes=sizes)
        after = DocumentLosses(losses=(loss + lost) * tokens, tokens=tokens, sizes=sizes)
        return spread({"": PairedCorpus(before, after, 1.0)})

    # Four bytes a token: a quarter of the loss a byte.
    assert by(size * tokens) == pytest.approx([each / size for each in by(tokens)])


def test_equal_models_differ_nowhere_and_equal_documents_give_equal_intervals():
    one = corpus(1, 60, 0.05)
    assert spread({"": PairedCorpus(one.reference, one.reference, 1.0)}) == (0.0, 0.0)
    assert spread({"": one}) == spread({"": corpus(1, 60, 0.05)})


def test_a_ratio_of_paired_scores_has_the_interval_of_the_delta_method():
    generator = np.random.default_rng(5)
    before = generator.uniform(0.5, 1.0, 400)
    after = 0.9 * before + generator.normal(0.0, 0.1, 400)
    kept = after.mean() / before.mean()
    wide = Z * (after - kept * before).std() / before.mean() / np.sqrt(400)
    assert ratio(after, before) == pytest.approx((kept - wide, kept + wide), abs=0.06 * wide)
    # Not paired, the differences between documents would make it wider.
    assert 2 * wide < 0.8 * np.subtract(*reversed(ratio(generator.permutation(after), before)))


def test_nothing_divides_by_scores_of_which_a_text_may_have_none():
    scores = np.array([0.0] * 39 + [1.0])
    assert ratio(scores, scores) is None
    assert ratio(scores, scores + 1) is not None
