"""Steps that would do harm: named, stopped at or skipped, and the best weights kept."""

import math
import shutil
import statistics
from pathlib import Path

import attrs
import pytest
import torch
from tiny_training import TRAINING, column, section, trained, write_tokens

from llmrecipe import Anomalies, Parallelism, Steps
from llmrecipe.engines.nanotron import weights
from llmrecipe.engines.nanotron.port import bootstrap
from llmrecipe.errors import StageError
from llmrecipe.recipe.optimizer import SGD
from llmrecipe.recipe.schedule import Constant

DATA = Parallelism(data=2, micro_batch_size=4)
PIPELINE = Parallelism(pipeline=2, micro_batch_size=4)
SPIKY = attrs.evolve(
    TRAINING, duration=Steps(16), anomalies=Anomalies(action="skip", spike_sigmas=1.0, window=4), validation_interval=8
)


@pytest.fixture(scope="module")
def tokens(tmp_path_factory) -> Path:
    return write_tokens(tmp_path_factory.mktemp("data") / "tokens", train=20_000, heldout=2_000)


@pytest.fixture(scope="module")
def spiky(tokens, tmp_path_factory):
    return trained(section(DATA, training=SPIKY), tokens, tmp_path_factory.mktemp("spiky"))


def watch(anomalies: Anomalies, rows=()):
    bootstrap.load("cpu")
    from llmrecipe.engines.nanotron.anomalies import Watch

    return Watch(anomalies, rows)


def row(loss: float, grad_norm: float = 1.0) -> dict[str, float]:
    return {"loss": loss, "grad_norm": grad_norm}


def test_what_is_not_finite_is_wrong_and_named():
    assert watch(Anomalies()).verdict(row(math.nan, math.inf)) == "loss = nan, grad_norm = inf"


def test_a_spike_is_measured_against_the_steps_of_the_window():
    judge = watch(Anomalies(spike_sigmas=3.0, window=4))
    assert judge.verdict(row(1.0)) is None
    assert judge.verdict(row(90.0)) is None, "a single step is less than half a window"
    for loss in (2.0, 3.0, 2.0, 3.0):
        assert judge.verdict(row(loss)) is None
    limit = 2.5 + 3 * statistics.pstdev((2, 3, 2, 3))
    assert "loss = 4.1, a spike above 4" in judge.verdict(row(limit + 0.1))
    assert "grad_norm = 1.1" in judge.verdict(row(2.5, 1.1))
    assert judge.verdict(row(limit + 0.2)) is None, "a level that lasts is no spike"


def test_without_a_limit_nothing_finite_is_wrong():
    judge = watch(Anomalies())
    assert [judge.verdict(row(loss)) for loss in (1.0, 1.0, 1.0, 1e30)] == [None] * 4


def test_a_watch_that_starts_from_rows_judges_as_the_one_that_saw_them():
    choice = Anomalies(action="skip", spike_sigmas=2.0, window=4)
    rows = [row(loss) for loss in (3.0, 2.0, 2.5, 50.0, 2.2, 2.6)]
    straight = watch(choice)
    for seen in rows:
        wrong = straight.verdict(seen)
        if wrong:
            seen["skipped"] = wrong
    assert ["skipped" in seen for seen in rows] == [False, False, False, True, False, False]

    again = watch(choice, rows)

    for loss in (2.7, 2.9, 4.0, 2.0):
        assert again.verdict(row(loss)) == straight.verdict(row(loss))


@pytest.mark.slow
def test_a_skipped_step_is_told_at_once(tokens, tmp_path, capfd):
    result = trained(section(DATA, training=SPIKY), tokens, tmp_path)
    told = capfd.readouterr().err
    for row in result.metrics:
        assert (f"t-train: step {row['step']} has " in told) == ("skipped" in row)


@pytest.mark.slow
def test_a_skipped_batch_leaves_the_weights_alone(spiky):
    skipped = [row["step"] for row in spiky.metrics if "skipped" in row]
    assert skipped, "the test is about skipping"
    assert [row["step"] for row in spiky.metrics] == list(range(1, 17))
    # The rule, by hand.
    history = {"loss": [], "grad_norm": []}
    expected = []
    for row in spiky.metrics:
        limits = {
            name: statistics.fmean(seen[-4:]) + 1.0 * statistics.pstdev(seen[-4:]) if len(seen) >= 2 else math.inf
            for name, seen in history.items()
        }
        if any(row[name] > limits[name] for name in history):
            expected.append(row["step"])
        for name, seen in history.items():
            seen.append(row[name])
    assert skipped == expected


@pytest.mark.slow
def test_skipping_is_the_same_for_every_layout_and_after_an_interruption(tokens, tmp_path, spiky):
    other = trained(section(PIPELINE, training=SPIKY), tokens, tmp_path / "pipeline")
    assert column(other, "loss") == pytest.approx(column(spiky, "loss"), rel=1e-5)
    assert [row["step"] for row in other.metrics if "skipped" in row] == [
        row["step"] for row in spiky.metrics if "skipped" in row
    ]

    trained(section(DATA, training=SPIKY), tokens, tmp_path / "cut", checkpoint_interval=8)
    shutil.rmtree(next((tmp_path / "cut").glob("*/checkpoints/16")))
    assert trained(section(DATA, training=SPIKY), tokens, tmp_path / "cut").metrics == spiky.metrics


@pytest.mark.slow
def test_a_training_that_was_stopped_goes_on_when_the_recipe_says_skip_and_not_the_other_way(tokens, tmp_path, spiky):
    stop = attrs.evolve(SPIKY, anomalies=attrs.evolve(SPIKY.anomalies, action="stop"))
    with pytest.raises(StageError, match=r"'skip' continues from the last checkpoint, past this batch"):
        trained(section(DATA, training=stop), tokens, tmp_path, checkpoint_interval=1)
    learned = len(next(tmp_path.glob("*/metrics.jsonl")).read_text().splitlines())
    assert learned == next(row["step"] for row in spiky.metrics if "skipped" in row) - 1

    assert trained(section(DATA, training=SPIKY), tokens, tmp_path).metrics == spiky.metrics
    with pytest.raises(StageError, match=f"has skipped step {learned + 1}, where .* = 'stop' would have ended it"):
        trained(section(DATA, training=stop), tokens, tmp_path)


@pytest.mark.slow
def test_a_gradient_that_is_not_finite_names_its_step_rank_and_weights(tokens, tmp_path):
    wild = attrs.evolve(TRAINING, optimizer=SGD(learning_rate=1e19), clip_grad_norm=None)
    with pytest.raises(StageError, match=r"step \d+ has .*(nan|inf).* \(.*weight.* on rank 0; .* on rank 1\)") as error:
        trained(section(DATA, training=wild), tokens, tmp_path, checkpoint_interval=1)

    assert "training.optimizer.learning_rate" in str(error.value)
    kept = sorted(int(path.name) for path in next(tmp_path.glob("*/checkpoints")).iterdir())
    named = int(str(error.value).split("step ")[1].split()[0])
    assert kept == [step for step in (named - 2, named - 1) if step > 0]


@pytest.mark.slow
def test_weights_that_are_not_finite_are_never_kept(tokens, tmp_path):
    wild = attrs.evolve(TRAINING, optimizer=SGD(learning_rate=3e38, weight_decay=1e4), clip_grad_norm=None)
    with pytest.raises(StageError, match=r"after step \d+ weights are not finite \(.*weight.* on rank 0"):
        trained(section(training=wild), tokens, tmp_path, checkpoint_interval=1)
    assert list(tmp_path.glob("*/checkpoints/[0-9]*")) == []


@pytest.mark.slow
def test_a_training_in_which_every_step_is_broken_ends(tokens, tmp_path):
    wild = attrs.evolve(
        TRAINING,
        duration=Steps(30),
        validation_interval=30,
        optimizer=SGD(learning_rate=1e19),
        clip_grad_norm=None,
        anomalies=Anomalies(action="skip"),
    )
    with pytest.raises(StageError, match="and the 10 steps before it were broken too"):
        trained(section(training=wild), tokens, tmp_path, checkpoint_interval=100)


@pytest.mark.slow
def test_a_validation_loss_that_is_not_finite_ends_the_training(tokens, tmp_path):
    """The steps are skipped, but weights of which they are made are measured."""
    wild = attrs.evolve(
        TRAINING, optimizer=SGD(learning_rate=1e19), clip_grad_norm=None, anomalies=Anomalies(action="skip")
    )
    with pytest.raises(StageError, match="after step 5 the validation loss is nan"):
        trained(section(training=wild), tokens, tmp_path, checkpoint_interval=100)


@pytest.mark.slow
def test_the_best_weights_are_kept_and_handed_on(tokens, tmp_path):
    # Learns, then is thrown off: the lowest validation loss comes before the last step.
    training = attrs.evolve(
        TRAINING,
        duration=Steps(14),
        validation_interval=2,
        optimizer=SGD(learning_rate=4.0),
        schedule=Constant(warmup=Steps(8)),
    )
    last = trained(section(training=training), tokens, tmp_path / "last")
    measured = {row["step"]: row["validation_loss"] for row in last.metrics if "validation_loss" in row}
    best = min(measured, key=measured.get)
    assert 2 <= best < 14, "the test is about a best step before the last"

    chosen = attrs.evolve(training, select="best")
    result = trained(section(training=chosen), tokens, tmp_path / "best", keep_checkpoints=1)
    assert (result.step, result.checkpoint.name) == (best, str(best))
    assert result.metrics == last.metrics

    kept = sorted(int(path.name) for path in result.checkpoint.parent.iterdir())
    assert kept == sorted({best, 14})
    # Lost, it is trained again.
    expected = weights.read_whole(result.checkpoint)
    shutil.rmtree(result.checkpoint)
    again = trained(section(training=chosen), tokens, tmp_path / "best", keep_checkpoints=1)
    assert again.metrics == last.metrics
    assert all(torch.equal(weight, expected[name]) for name, weight in weights.read_whole(again.checkpoint).items())
