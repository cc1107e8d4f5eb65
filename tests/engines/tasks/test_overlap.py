"""Texts and short answers: the numbers of sacrebleu, rouge-score and the scripts of SQuAD."""

import math

import pytest
import sacrebleu
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.data.metrics.squad_metrics import compute_exact, compute_f1, normalize_answer

from llmrecipe.engines.tasks import squad
from llmrecipe.engines.tasks.overlap import overlaps
from llmrecipe.engines.tasks.passing import pass_at
from llmrecipe.engines.tasks.resampling import interval
from llmrecipe.errors import StageError

SAID = ["the cat sat on the mat .", "It's raining, again", "", "Über den Wolken", "one two three four five"]
OWN = [
    ["the cat is on the mat .", "a cat sat on a mat ."],
    ["It is raining again"],
    ["nothing"],
    ["Über den Wolken"],
    ["one two four five six", "five", "one two three"],
]
ONE_EACH = [each[:1] for each in OWN]

texts = st.text(st.sampled_from("ab .,é"), max_size=12)


def columns(references):
    """References in sacrebleu's order."""
    most = max(map(len, references))
    return [[each[place] if place < len(each) else None for each in references] for place in range(most)]


@pytest.mark.parametrize("references", [ONE_EACH, OWN])
def test_bleu_and_chrf_of_all_texts_are_those_of_sacrebleu(references):
    numbers = overlaps(SAID, references).numbers
    bleu, chrf = sacrebleu.BLEU(), sacrebleu.CHRF()
    assert numbers["bleu"] == bleu.corpus_score(SAID, columns(references)).score
    assert numbers["chrf"] == chrf.corpus_score(SAID, columns(references)).score
    signatures = {name: numbers["signatures"][name] for name in ("bleu", "chrf")}
    assert signatures == {"bleu": str(bleu.get_signature()), "chrf": str(chrf.get_signature())}


@settings(max_examples=25)
@given(st.lists(st.tuples(texts, st.lists(texts, min_size=1, max_size=3)), min_size=1, max_size=4))
def test_means_over_texts_are_of_what_sacrebleu_says_of_each(pairs):
    said, references = [each[0] for each in pairs], [each[1] for each in pairs]
    found = overlaps(said, references)
    numbers, scores = found.numbers, found.scores
    for name, alone in (("sentence_bleu", sacrebleu.sentence_bleu), ("sentence_chrf", sacrebleu.sentence_chrf)):
        expected = [alone(text, own).score for text, own in pairs]
        assert scores[name].above == pytest.approx(expected)
        assert scores[name].value == numbers[name] == pytest.approx(math.fsum(expected) / len(pairs))


def test_bleu_of_all_texts_is_no_mean_over_them():
    found = overlaps(SAID, OWN)
    numbers, scores = found.numbers, found.scores
    assert numbers["bleu"] != pytest.approx(numbers["sentence_bleu"], rel=0.01)
    assert set(scores) == {"sentence_bleu", "sentence_chrf", "rouge1", "rouge2", "rougeL"}
    assert "eff:no" in numbers["signatures"]["bleu"]
    assert "eff:yes" in numbers["signatures"]["sentence_bleu"]


def test_intervals_are_about_as_wide_as_sacrebleus():
    said, references = SAID * 40, ONE_EACH * 40
    found = overlaps(said, references)
    for name, metric in (("bleu", sacrebleu.BLEU()), ("chrf", sacrebleu.CHRF())):
        theirs = metric.corpus_score(said, columns(references), n_bootstrap=2000)
        low, high = interval(found.pooled[name])
        assert low < found.pooled[name].value < high
        assert (high - low) / 2 == pytest.approx(theirs._ci, rel=0.1)


def test_intervals_are_the_same_whatever_the_environment_says(monkeypatch):
    first = interval(overlaps(SAID, OWN).pooled["bleu"])
    monkeypatch.setenv("SACREBLEU_SEED", "none")
    assert interval(overlaps(SAID, OWN).pooled["bleu"]) == first


def test_rouge_by_hand():
    # Of five words and five, four are the same; pairs: "one two" and "four five"; "one two four five" in this order.
    scores = overlaps(["one two three four five"], [["one two four five six"]]).scores
    assert [scores[name].above for name in ("rouge1", "rouge2", "rougeL")] == [
        [pytest.approx(0.8)],
        [pytest.approx(0.5)],
        [pytest.approx(0.8)],
    ]
    # The order counts for the longest common subsequence alone.
    scores = overlaps(["b a"], [["a b"]]).scores
    assert (scores["rouge1"].value, scores["rouge2"].value, scores["rougeL"].value) == (1.0, 0.0, 0.5)


def test_rouge_takes_the_best_reference_of_each():
    scores = overlaps(["a b", "c"], [["x", "a b c d"], ["c"]]).scores
    assert scores["rouge1"].above == [pytest.approx(2 / 3), 1.0]


def test_rouge_reads_no_other_script():
    numbers = overlaps(["Привет мир"], [["Привет мир"]]).numbers
    assert (numbers["rouge1"], numbers["chrf"]) == (0.0, 100.0)


def test_a_text_without_a_reference_is_refused():
    with pytest.raises(StageError, match="text 2 of 2 has no reference"):
        overlaps(["a", "b"], [["a"], []])


answers = st.lists(st.sampled_from(["the", "a", "An", "cat", "Cat!", "sat,", "two  words", ".", ""]), max_size=4).map(
    " ".join
)


@given(answers, st.lists(answers, max_size=3))
def test_short_answers_are_judged_as_in_squad(said, gold):
    # As the official script does with the answers of a question.
    kept = [answer for answer in gold if normalize_answer(answer)] or [""]
    assert squad.exact_match(said, gold) == max(compute_exact(answer, said) for answer in kept)
    assert squad.f1(said, gold) == pytest.approx(max(compute_f1(answer, said) for answer in kept))


def test_short_answers_by_hand():
    assert squad.normalized("The  Cat's (an) theory,") == "cats theory"
    found = squad.scores(["the Eiffel tower!", "in Paris", "no", ""], [["Eiffel Tower"], ["Paris", "Rome"], [], []])
    assert found["exact_match"].above == [1.0, 0.0, 0.0, 1.0]
    assert found["f1"].above == [1.0, pytest.approx(2 / 3), 0.0, 1.0]
    assert found["exact_match"].value == 0.5


def test_words_that_occur_twice_count_twice():
    assert squad.f1("no no no", ["no no"]) == pytest.approx(2 * 2 / 5)


@pytest.mark.parametrize("k", [1, 2, 5, 10])
def test_pass_at_k_is_what_binomials_say(k):
    score = pass_at(k, range(11), written=10)
    expected = [1 - math.comb(10 - passed, k) / math.comb(10, k) for passed in range(11)]
    assert score.above == pytest.approx(expected)
    assert score.value == pytest.approx(sum(expected) / 11)


def test_pass_at_1_is_the_share_that_passed():
    assert pass_at(1, [0, 3, 10], written=10).above == pytest.approx([0.0, 0.3, 1.0])


def test_pass_at_k_of_many_programs_is_a_number():
    # C(5000, 2500) is larger than any float.
    assert pass_at(2500, [1], written=5000).value == pytest.approx(0.5)


def test_pass_at_more_than_were_written_is_refused():
    with pytest.raises(StageError, match="pass@10 can't be had of 5 programs"):
        pass_at(10, [1], written=5)
