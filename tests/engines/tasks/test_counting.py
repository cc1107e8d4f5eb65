"""Reports on labels and entities, equal to those of scikit-learn and seqeval."""

from itertools import chain

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from seqeval.metrics import classification_report as of_entities
from sklearn.metrics import classification_report, f1_score, precision_recall_fscore_support

from llmrecipe import evolve, task
from llmrecipe.cards import TaskCard
from llmrecipe.engines.tasks import tags
from llmrecipe.engines.tasks.classification import ClassificationWork
from llmrecipe.engines.tasks.counting import Counts, by_class, macro_f1, report
from llmrecipe.engines.tasks.named_entities import NamedEntitiesWork
from llmrecipe.engines.tasks.resampling import interval
from llmrecipe.engines.tasks.score import correlation

LABELS = tuple(tags.labels_of(("LOC", "PER")))

NAMES = {"micro": "micro avg", "macro": "macro avg", "weighted": "weighted avg"}
KEYS = {"precision": "precision", "recall": "recall", "f1": "f1-score", "support": "support"}


def tagged(size):
    return st.lists(st.sampled_from(LABELS), min_size=size, max_size=size)


# At least one entity: of none, seqeval warns and says nothing.
rows = st.lists(
    st.integers(1, 6).flatmap(
        lambda size: st.tuples(*[st.lists(st.sampled_from(LABELS), min_size=size, max_size=size)] * 2)
    ),
    min_size=1,
    max_size=5,
).filter(lambda pairs: all(any(tag != "O" for own in side for tag in own) for side in zip(*pairs, strict=True)))


class Words:
    """A tokenizer that gives each word a number."""

    pad_token_id, eos_token_id, unk_token_id = 0, 0, 0

    def __call__(self, text):
        return {"input_ids": []}


TAGGED = task.NamedEntities(name="n", train="n.conll", max_length=16)

TEXTS = task.Classification(name="c", train="c.csv", max_length=16)


def work(labels=LABELS, cls=NamedEntitiesWork, what=TAGGED):
    return cls(TaskCard(task=what, labels=tuple(labels)), Words())


def sure(pairs, labels=LABELS):
    """Examples, and answers that leave no doubt."""
    examples = [{"id": str(index), "words": ["w"] * len(own), "tags": own} for index, (own, _) in enumerate(pairs)]
    answers = {
        (index, word): [0.0 if label == tag else -50.0 for label in labels]
        for index, (_, said) in enumerate(pairs)
        for word, tag in enumerate(said)
    }
    return examples, answers


def assert_equal(found, expected, classes):
    for name in classes:
        for key, theirs in KEYS.items():
            assert found["classes"][name][key] == pytest.approx(expected[name][theirs])
    for mean, theirs in NAMES.items():
        if theirs in expected:
            for key in KEYS:
                assert found[mean][key] == pytest.approx(expected[theirs][KEYS[key]])


@given(rows)
def test_reports_on_names_are_those_of_seqeval_and_scikit_learn(pairs):
    pairs = [(tags.iob2(own), tags.iob2(said)) for own, said in pairs]
    verdict = work().verdict(*sure(pairs))
    own, said = ([list(each) for each in side] for side in zip(*pairs, strict=True))
    expected = of_entities(own, said, output_dict=True, zero_division=0)
    there = [name for name in expected if name in ("LOC", "PER")]
    # seqeval leaves out a type that neither has, which is in our macro mean.
    if len(there) == 2:
        assert_equal(verdict.numbers["entities"], expected, there)
    assert verdict.numbers["entity_f1"] == pytest.approx(expected["micro avg"]["f1-score"])
    flat = [list(chain.from_iterable(side)) for side in (own, said)]
    expected = classification_report(*flat, labels=LABELS, output_dict=True, zero_division=0)
    if "accuracy" in expected:
        expected["micro avg"] = {
            **dict.fromkeys(("precision", "recall", "f1-score"), expected["accuracy"]),
            "support": len(flat[0]),
        }
    assert_equal(verdict.numbers["words"], expected, LABELS)
    assert verdict.scores["entity_f1"].value == pytest.approx(verdict.numbers["entity_f1"])
    assert verdict.scores["word_micro_f1"].value == pytest.approx(verdict.numbers["word_micro_f1"])


TONES = ("bad", "fair", "good")


@given(st.lists(st.tuples(st.sampled_from(TONES), st.sampled_from(TONES)), min_size=1, max_size=20))
def test_a_report_on_one_label_is_that_of_scikit_learn(pairs):
    examples = [{"id": str(index), "text": "t", "label": own} for index, (own, _) in enumerate(pairs)]
    answers = {(index, 0): [0.0 if each == said else -9.0 for each in TONES] for index, (_, said) in enumerate(pairs)}
    verdict = work(TONES, ClassificationWork, TEXTS).verdict(examples, answers)
    own, said = zip(*pairs, strict=True)
    expected = classification_report(own, said, labels=TONES, output_dict=True, zero_division=0)
    assert_equal(verdict.numbers["labels"], {key: row for key, row in expected.items() if key != "micro avg"}, TONES)
    assert verdict.numbers["accuracy"] == pytest.approx(sum(one == other for one, other in pairs) / len(pairs))
    assert {(one, other): count for one, other, count in verdict.pairs if count} == {
        pair: pairs.count(pair) for pair in pairs
    }


sets = st.sets(st.sampled_from(TONES))


@given(st.lists(st.tuples(sets, sets), min_size=1, max_size=12))
def test_a_report_on_several_labels_is_that_of_scikit_learn(pairs):
    examples = [{"id": str(index), "text": "t", "labels": sorted(own)} for index, (own, _) in enumerate(pairs)]
    answers = {(index, 0): [-0.01 if each in said else -5.0 for each in TONES] for index, (_, said) in enumerate(pairs)}
    verdict = work(TONES, ClassificationWork, evolve(TEXTS, answer="several")).verdict(examples, answers)
    own, said = ([[label in each for label in TONES] for each in side] for side in zip(*pairs, strict=True))
    for mean in NAMES:
        expected = precision_recall_fscore_support(own, said, average=mean, zero_division=0)
        found = verdict.numbers["labels"][mean]
        assert [found[key] for key in ("precision", "recall", "f1")] == pytest.approx(expected[:3])
    assert verdict.numbers["micro_f1"] == pytest.approx(verdict.numbers["labels"]["micro"]["f1"])


def test_a_report_by_hand():
    found = report({"a": Counts(right=3, said=4, there=6), "b": Counts(right=0, said=1, there=0)})
    assert found["classes"]["a"] == {"precision": 0.75, "recall": 0.5, "f1": 0.6, "support": 6}
    assert found["micro"] == {"precision": 0.6, "recall": 0.5, "f1": pytest.approx(6 / 11), "support": 6}
    assert found["macro"]["f1"] == 0.3
    assert found["weighted"]["f1"] == 0.6


def test_a_correlation_by_hand():
    assert correlation([1, 2, 3], [2, 4, 6]).value == pytest.approx(1)
    assert correlation([1, 2, 3], [3, 2, 1]).value == pytest.approx(-1)
    assert correlation([1, 1], [1, 2]).value == 0.0


of_some = st.lists(st.integers(0, 5), min_size=2, max_size=8)
"""Which of six examples are drawn."""

six = st.lists(st.tuples(st.sampled_from(TONES), st.sampled_from(TONES)), min_size=6, max_size=6)


def on(drawn, number):
    """A number on the examples that are drawn."""
    return number.number(number.counts[drawn].sum(axis=0))


@given(six, of_some)
def test_a_macro_f1_on_other_examples_is_that_of_scikit_learn(pairs, drawn):
    classes = [by_class([own], [said], str) for own, said in pairs]
    own, said = zip(*(pairs[index] for index in drawn), strict=True)
    expected = f1_score(own, said, labels=TONES, average="macro", zero_division=0)
    assert on(drawn, macro_f1(classes, TONES)) == pytest.approx(expected)


@given(st.lists(st.tuples(st.integers(-3, 3), st.integers(-3, 3)), min_size=6, max_size=6), of_some)
def test_a_correlation_on_other_examples_is_that_of_numpy(pairs, drawn):
    found = on(drawn, correlation(*zip(*pairs, strict=True)))
    own, said = np.array([pairs[index] for index in drawn]).T
    expected = np.corrcoef(own, said)[0, 1] if own.std() and said.std() else 0.0
    assert found == pytest.approx(expected, abs=1e-9)


def test_every_number_of_all_examples_together_has_an_interval():
    """Of the tasks that have classes."""
    examples = [{"id": str(index), "text": "t", "label": own} for index, own in enumerate(TONES * 4)]
    answers = {(index, 0): [0.0, -1.0, -2.0] for index in range(len(examples))}
    verdict = work(TONES, ClassificationWork, TEXTS).verdict(examples, answers)
    assert verdict.pooled["macro_f1"].value == verdict.numbers["macro_f1"]
    low, high = interval(verdict.pooled["macro_f1"])
    assert low < verdict.numbers["macro_f1"] < high
    assert {*TEXTS.scores, *TEXTS.numbers} == verdict.scores.keys() | verdict.pooled.keys()
