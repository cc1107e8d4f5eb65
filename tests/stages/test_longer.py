"""A training that is made longer: it goes on from the shorter one, where the first steps of both are the same."""

import logging
from types import SimpleNamespace

import attrs
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import trainings
from tiny_training import LENGTH, TRAINING, section, trained, write_tokens

from llmrecipe import Dropout, Fraction, Steps, artifacts, evolve
from llmrecipe.engines.nanotron import weights
from llmrecipe.engines.nanotron.job import NanotronFolder
from llmrecipe.engines.nanotron.predecessors import Predecessor, _reason
from llmrecipe.engines.runs.schedule import learning_rate_factor, steps_alike, steps_before_decay
from llmrecipe.recipe.schedule import Constant, Cosine, InverseSquareRoot, WarmupStableDecay

BASE = attrs.evolve(TRAINING, schedule=Constant(warmup=Steps(2)), dropout=Dropout(residual=0.1))
DECAYING = attrs.evolve(BASE, schedule=WarmupStableDecay(warmup=Steps(2), decay=Fraction(0.3)))


@pytest.fixture(scope="module")
def tokens(tmp_path_factory):
    # 30 sequences, so both lengths end in other epochs.
    return write_tokens(tmp_path_factory.mktemp("data") / "tokens", train=30 * LENGTH + 1, heldout=2_000)


def lasting(training, steps, **changes):
    return section(training=attrs.evolve(training, duration=Steps(steps), **changes))


def assert_the_same(one, other):
    assert one.metrics == other.metrics
    assert one.kept.keys() == other.kept.keys()
    for mine, theirs in [(one.checkpoint, other.checkpoint), *((one.kept[at], other.kept[at]) for at in one.kept)]:
        expected, found = weights.read_whole(mine), weights.read_whole(theirs)
        assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("training", "step"),
    [
        # Step 7 is measured in the shorter run, as its last, and not in the longer one.
        (BASE, 7),
        # Its decay takes three steps, and what it leaves is that before them.
        (DECAYING, 4),
        (attrs.evolve(BASE, keep_every=Steps(3)), 7),
        # The best of the shorter run is its last step, which the longer one doesn't measure; nor the decay's.
        (attrs.evolve(BASE, select="best"), 7),
        (attrs.evolve(DECAYING, select="best", validation_interval=2), 4),
    ],
    ids=["constant", "decay", "kept", "best", "best before the decay"],
)
def test_a_longer_training_goes_on_and_is_bit_for_bit_a_straight_one(tokens, tmp_path, caplog, training, step):
    straight = trained(lasting(training, 12), tokens, tmp_path / "straight")
    short = trained(lasting(training, 7), tokens, tmp_path / "longer", keep_checkpoints=1)
    with caplog.at_level(logging.INFO, logger="llmrecipe"):
        longer = trained(lasting(training, 12), tokens, tmp_path / "longer", keep_checkpoints=1)

    assert f"goes on after step {step} of an earlier run, which is kept in" in caplog.text
    assert len(longer.timings) == 12
    assert_the_same(longer, straight)
    assert short.checkpoint.exists()
    # The other way there is nothing left to train.
    assert trained(lasting(training, 7), tokens, tmp_path / "longer").metrics == short.metrics


@pytest.mark.slow
def test_nothing_is_taken_from_a_run_that_differs_in_more_or_earlier(tokens, tmp_path, caplog):
    short = trained(lasting(BASE, 3), tokens, tmp_path)
    for damaged in short.checkpoint.rglob("*.safetensors"):
        damaged.write_bytes(damaged.read_bytes()[:-1] + b"x")
    others = [
        lasting(BASE, 4, seed=2),
        lasting(BASE, 4, schedule=Cosine(warmup=Steps(2))),
        lasting(BASE, 4),
    ]
    for each in others:
        trained(each, tokens, tmp_path)
    assert "goes on" not in caplog.text
    assert "damaged and put aside" in caplog.text
    caplog.clear()
    trained(lasting(BASE, 5, schedule=Cosine(warmup=Steps(2))), tokens, tmp_path)
    reason = "under Cosine its 4 steps aren't the first of 5; under Constant"
    assert caplog.text.count(reason) == 1


@pytest.mark.slow
def test_a_longer_run_on_another_kind_of_processor_says_that_it_rounds_differently(tokens, tmp_path, caplog):
    trained(lasting(BASE, 3), tokens, tmp_path)
    (file,) = tmp_path.glob("*/job.json")
    artifacts.write_json(file, artifacts.read_json(file) | {"math_library": "another"})
    trained(lasting(BASE, 4), tokens, tmp_path)
    assert "the steps so far were multiplied by another" in caplog.text


@given(data=st.data(), longer=st.integers(1, 2000))
def test_steps_alike_are_those_whose_learning_rates_are_equal(data, longer):
    one = data.draw(trainings(4, 8)).settled(100)
    other = evolve(one, duration=Steps(longer))
    alike = steps_alike(one, other, 8)
    shorter = min(one.num_steps(8), longer)
    rates = [[learning_rate_factor(each, 8, step) for step in range(shorter)] for each in (one, other)]
    assert rates[0][:alike] == rates[1][:alike]
    assert alike == shorter or rates[0][alike] != rates[1][alike]


@pytest.mark.parametrize("schedule", [Constant(warmup=Steps(9)), InverseSquareRoot(warmup=Steps(9))])
def test_schedules_without_an_end_share_all_steps(schedule):
    runs = [attrs.evolve(TRAINING, schedule=schedule, duration=Steps(steps)) for steps in (90, 120)]
    assert steps_alike(*runs, LENGTH) == 90


def test_a_warm_up_that_is_a_share_is_said_to_be_another_in_a_longer_run(tmp_path):
    short, long = (
        section(training=attrs.evolve(BASE, schedule=Constant(), duration=Steps(steps))) for steps in (90, 120)
    )
    earlier = Predecessor(NanotronFolder(tmp_path), short.training)
    assert _reason(earlier, SimpleNamespace(section=long, sequence_length=LENGTH)) == (
        "its warm-up, Fraction(0.01), took 1 steps and takes 2; Constant with warmup=Steps(1) goes on"
    )


@pytest.mark.parametrize("decay", [Steps(18), Fraction(0.2)])
def test_all_steps_before_a_decay_are_those_of_a_longer_run(decay):
    schedule = WarmupStableDecay(warmup=Steps(5), decay=decay)
    short, long = (attrs.evolve(TRAINING, schedule=schedule, duration=Steps(steps)) for steps in (90, 120))
    assert steps_before_decay(short, LENGTH) == steps_alike(short, long, LENGTH) == 72
