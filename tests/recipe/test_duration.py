"""How long a run is: in tokens, in steps, or in epochs of a text whose tokens needn't be there yet."""

import re

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from paths import RECIPES
from tiny_recipe import BASE, RECIPE

from llmrecipe import Epochs, Fraction, Steps, Tokens, codec, evolve, schedule
from llmrecipe.certify.shrink import shrink
from llmrecipe.cli.main import main
from llmrecipe.recipe import checks
from llmrecipe.recipe.training import Training


@given(epochs=st.integers(1, 50), sequences=st.integers(1, 10_000), batch=st.integers(1, 500))
def test_whole_epochs_read_every_sequence_and_no_more_than_a_step_beyond(epochs, sequences, batch):
    training = evolve(BASE.training, duration=Epochs(epochs), global_batch_size=batch)
    read = training.settled(sequences).num_steps(32) * batch
    assert epochs * sequences <= read < epochs * sequences + batch


@pytest.mark.parametrize(("epochs", "steps"), [(0.5, 13), (1.1, 28), (1e-6, 1), (2, 50)])
def test_parts_of_an_epoch_are_rounded_up_to_steps(epochs, steps):
    assert evolve(BASE.training, duration=Epochs(epochs)).settled(100).duration == Steps(steps)


@pytest.mark.parametrize("duration", [Steps(7), Tokens(1000)])
def test_other_lengths_are_settled_already(duration):
    training = evolve(BASE.training, duration=duration)
    assert training.settled(5) is training


def test_epochs_are_written_and_read():
    training = evolve(BASE.training, duration=Epochs(3))
    plain = codec.unstructure(training)
    assert plain["duration"] == {"type": "epochs", "count": 3.0}
    assert codec.structure(plain, Training, "") == training


@pytest.mark.parametrize("count", [0, -1, float("nan"), 1e9, True])
def test_epochs_without_sense_are_refused(count):
    with pytest.raises(ValueError, match=r"Epochs\.count"):
        Epochs(count)


@pytest.mark.parametrize(
    ("lengths", "place"),
    [
        (schedule.Cosine(warmup=Fraction(1)), "warmup"),
        (schedule.WarmupStableDecay(warmup=Fraction(0.5), decay=Fraction(0.6)), "decay"),
        (schedule.WarmupStableDecay(warmup=Fraction(0.4), decay=Fraction(0.6)), None),
        (schedule.Constant(warmup=Steps(10**6)), None),
    ],
)
def test_shares_of_epochs_are_checked_before_the_steps_are_known(lengths, place):
    training = evolve(BASE.training, duration=Epochs(2), schedule=lengths)
    recipe = attrs.evolve(RECIPE, models=(evolve(BASE, training=training),))
    paths = [violation.path for violation in checks.violations(recipe)]
    assert paths == ([f"small.models[0].training.schedule.{place}"] if place else [])


def test_a_model_that_is_trained_for_epochs_is_shrunk_to_one_of_steps():
    small = shrink(evolve(BASE, training__duration=Epochs(3)), steps=20, vocab_size=300)
    assert small.training.num_steps(small.objective.sequence_length) == 20


def test_check_tells_what_is_known_of_epochs(tmp_path, monkeypatch, capsys):
    text = (RECIPES / "quickstart.py").read_text()
    text = re.sub(r"Tokens\(4_000_000\)", "Epochs(3)", text.replace("    Fraction,\n", "    Epochs,\n    Fraction,\n"))
    (tmp_path / "quickstart.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    assert main(["check", "quickstart.py"]) == 0
    told = "1.0 M parameters, 3 epochs in steps of 4,096 tokens, as many as its text will take, 2 ranks"
    assert f"small-code: {told}" in capsys.readouterr().out
