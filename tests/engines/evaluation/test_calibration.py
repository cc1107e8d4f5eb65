"""Whether a model is as often right as it is sure, and the picture of it."""

import random
from xml.etree import ElementTree

import numpy as np
import pytest
from sklearn.calibration import calibration_curve

from llmrecipe.engines.evaluation.answer_pictures import answers_of
from llmrecipe.engines.evaluation.calibration import bins_of, calibration_error
from llmrecipe.engines.tasks.score import Score
from llmrecipe.engines.tasks.work import Verdict


def answers(count, seed=0):
    draw = random.Random(seed)
    chances = [draw.random() for _ in range(count)]
    return [(chance, draw.random() < chance**2) for chance in chances]


def test_tenths_are_those_of_scikit_learn():
    sure = answers(500)
    right, held = calibration_curve([hit for _, hit in sure], [chance for chance, _ in sure], n_bins=10)
    found = bins_of(sure)
    assert [each.right for each in found] == pytest.approx(list(right))
    assert [each.sure for each in found] == pytest.approx(list(held))


def test_the_error_is_the_mean_gap_over_answers():
    # Two tenths: 0.15 held and half of it right; 0.95 held and all of it right.
    sure = [(0.1, True), (0.2, False), (0.95, True), (0.95, True)]
    by_hand = np.mean([abs(0.1 - 1), abs(0.2 - 0), abs(0.95 - 1), abs(0.95 - 1)])
    assert calibration_error(bins_of(sure)) == pytest.approx(by_hand)
    assert calibration_error(bins_of([(1.0, True)])) == 0


@pytest.mark.parametrize(
    ("verdict", "shown"),
    [
        ({"pairs": [("<a>", "b", 3), ("<a>", "<a>", 1)]}, ["<a> (4)", "75.0"]),
        ({"sure": answers(30)}, ["how likely answers were held, %"]),
        ({}, ["examples by f1"]),
    ],
)
def test_a_picture_shows_what_there_is(verdict, shown):
    score = Score(better="higher", above=[1.0, 0.0, 0.5], below=[1.0, 1.0, 0.0])
    drawn = answers_of(Verdict(numbers={}, scores={"f1": score}, errors=[], **verdict), "test")
    said = [element.text for element in ElementTree.fromstring(drawn).iter() if element.text]
    assert "test examples" in said
    assert all(each in said for each in shown)
