"""Masks: what is masked, how much of it, and that nothing but seed, epoch and sequence decides."""

import attrs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmrecipe.engines.tokens.masking import MaskedVocabulary, mask
from llmrecipe.recipe.masking import SingleTokens, Spans, WholeWords
from llmrecipe.recipe.objective import MaskedLM, MultiMaskLM

SIZE, MASK = 500, 4
IS_SPECIAL = np.arange(SIZE) < 5
# Every third token goes on with a word.
VOCABULARY = MaskedVocabulary(mask_id=MASK, is_special=IS_SPECIAL, starts_word=np.arange(SIZE) % 3 != 0)
MASKINGS = (SingleTokens(), WholeWords(), Spans(), Spans(success_probability=0.5, max_length=4))

sequences = st.lists(st.integers(0, SIZE - 1), min_size=4, max_size=120).map(np.array)
maskings = st.sampled_from(MASKINGS)
rates = st.floats(0.05, 0.6)


def masked(tokens, seed=0, epoch=0, window=0, **objective):
    wanted = MaskedLM(sequence_length=len(tokens), **objective)
    return mask(tokens, wanted, VOCABULARY, seed=seed, epoch=epoch, window=window)


def text(length: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(5, SIZE, length)


@given(tokens=sequences, masking=maskings, rate=rates, window=st.integers(0, 10**9))
def test_only_text_is_masked_and_only_masked_tokens_change(tokens, masking, rate, window):
    before = tokens.copy()
    result = masked(tokens, masking=masking, mask_rate=rate, window=window)

    np.testing.assert_array_equal(tokens, before)
    assert not IS_SPECIAL[tokens[result.positions]].any()
    assert sorted(set(result.positions.tolist())) == result.positions.tolist()
    changed = np.flatnonzero(result.input_ids != tokens)
    assert set(changed) <= set(result.positions.tolist())
    assert set(result.first_positions.tolist()) <= set(result.positions.tolist())
    replaced = result.input_ids[changed]
    assert all(token == MASK or not IS_SPECIAL[token] for token in replaced)


@given(tokens=sequences, rate=rates, window=st.integers(0, 10**9))
def test_single_tokens_are_the_share_asked_for_to_the_nearest_and_one_at_least(tokens, rate, window):
    available = int((~IS_SPECIAL[tokens]).sum())
    count = len(masked(tokens, mask_rate=rate, window=window).positions)
    assert count == min(available, max(1, round(rate * available)))


@given(tokens=sequences, rate=rates, window=st.integers(0, 10**9))
def test_words_are_masked_whole(tokens, rate, window):
    result = masked(tokens, masking=WholeWords(), mask_rate=rate, window=window)
    is_masked = np.isin(np.arange(len(tokens)), result.positions)
    for position in range(1, len(tokens)):
        goes_on = not VOCABULARY.starts_word[tokens[position]] and not IS_SPECIAL[tokens[position]]
        if goes_on and not IS_SPECIAL[tokens[position - 1]]:
            assert is_masked[position] == is_masked[position - 1]


@given(tokens=sequences, masking=st.sampled_from(MASKINGS[2:]), rate=rates, window=st.integers(0, 10**9))
def test_spans_do_not_touch_and_each_has_a_token_before_it(tokens, masking, rate, window):
    result = masked(tokens, masking=masking, mask_rate=rate, window=window)
    starts = set(result.first_positions.tolist())
    is_masked = set(result.positions.tolist())
    assert 0 not in is_masked
    # A span begins exactly where the token before isn't masked, and so no two touch.
    assert starts == {position for position in is_masked if position - 1 not in is_masked}
    for start in starts:
        length = next(n for n in range(1, len(tokens) + 1) if start + n not in is_masked)
        assert length <= masking.max_length


@pytest.mark.parametrize("masking", MASKINGS, ids=lambda masking: type(masking).__name__)
def test_the_tokens_put_in_place_are_within_binomial_bounds(masking):
    counts = {"mask": 0, "kept": 0, "random": 0}
    units = 0
    for window in range(400):
        tokens = text(200, window)
        result = masked(tokens, masking=masking, window=window)
        chosen = result.first_positions if isinstance(masking, Spans) else result.positions
        now, then = result.input_ids[chosen], tokens[chosen]
        units += len(chosen)
        counts["mask"] += int((now == MASK).sum())
        counts["kept"] += int((now == then).sum())
        counts["random"] += int(((now != MASK) & (now != then)).sum())
    # Four standard deviations; a random token is the old one once in 495.
    for name, share in (("mask", 0.8), ("kept", 0.1 + 0.1 / 495), ("random", 0.1 - 0.1 / 495)):
        assert abs(counts[name] - units * share) <= 4 * (units * share * (1 - share)) ** 0.5


def test_every_position_is_masked_about_equally_often():
    masks = np.zeros(100)
    for window in range(3000):
        masks[masked(text(100), window=window).positions] += 1
    assert abs(masks - 450).max() < 4.5 * (3000 * 0.15 * 0.85) ** 0.5


def test_lengths_of_spans_are_geometric():
    lengths = []
    for window in range(400):
        result = masked(text(400), masking=Spans(), window=window)
        ends = np.append(result.first_positions[1:], len(result.positions))
        runs = np.split(result.positions, np.flatnonzero(np.diff(result.positions) > 1) + 1)
        lengths += [len(run) for run in runs]
        assert len(ends) == len(runs)
    weights = 0.2 * 0.8 ** np.arange(9)
    expected = sum(weights * np.arange(1, 10)) + 10 * 0.8**9
    # The last span of a sequence is cut to what is left of the 60 tokens.
    assert expected - 0.35 < np.mean(lengths) < expected


@settings(max_examples=20)
@given(masking=maskings, seed=st.integers(0, 2**32 - 1), epoch=st.integers(0, 100), window=st.integers(0, 10**9))
def test_masks_depend_on_seed_epoch_and_sequence_alone(masking, seed, epoch, window):
    tokens = text(200)
    key = {"seed": seed, "epoch": epoch, "window": window}
    first, again = (masked(tokens, masking=masking, **key) for _ in range(2))
    np.testing.assert_array_equal(first.input_ids, again.input_ids)
    for name in key:
        other = masked(tokens, masking=masking, **key | {name: key[name] + 1})
        assert set(other.positions.tolist()) != set(first.positions.tolist())


@given(tokens=sequences, window=st.integers(0, 10**9))
def test_spans_are_the_same_for_both_objectives(tokens, window):
    one = MaskedLM(sequence_length=len(tokens), masking=Spans())
    other = MultiMaskLM(sequence_length=len(tokens))
    found = [mask(tokens, wanted, VOCABULARY, seed=1, epoch=2, window=window) for wanted in (one, other)]
    for name in (field.name for field in attrs.fields(type(found[0]))):
        np.testing.assert_array_equal(getattr(found[0], name), getattr(found[1], name))


def test_a_sequence_without_text_has_nothing_to_predict():
    for masking in MASKINGS:
        assert len(masked(np.array([0, 1, 2, 3]), masking=masking).positions) == 0
