"""A run whose length is given in epochs, from the tokens that are there."""

import logging

import attrs
import pytest
from tiny_training import LENGTH, SHORT, section, trained, write_tokens

from llmrecipe import Epochs, Fraction, Steps
from llmrecipe.errors import RecipeError
from llmrecipe.recipe.schedule import Constant, WarmupStableDecay

SHARES = attrs.evolve(SHORT, schedule=WarmupStableDecay(warmup=Fraction(0.25), decay=Fraction(0.5)))


@pytest.fixture(scope="module")
def tokens(tmp_path_factory):
    # 24 sequences.
    return write_tokens(tmp_path_factory.mktemp("data") / "tokens", train=24 * LENGTH + 1, heldout=2_000)


@pytest.mark.slow
def test_epochs_train_as_so_many_steps_and_the_log_tells_both(tokens, tmp_path, caplog):
    with caplog.at_level(logging.INFO, logger="llmrecipe"):
        epochs = trained(section(training=attrs.evolve(SHARES, duration=Epochs(1.3))), tokens, tmp_path / "epochs")
    steps = trained(section(training=attrs.evolve(SHARES, duration=Steps(4))), tokens, tmp_path / "steps")
    assert "4 steps of 512 tokens, 1.33 epochs" in caplog.text
    assert epochs.metrics == steps.metrics


def test_a_schedule_longer_than_the_epochs_is_refused_before_anything_runs(tokens, tmp_path):
    training = attrs.evolve(SHORT, duration=Epochs(2), schedule=Constant(warmup=Steps(7)))
    with pytest.raises(RecipeError, match=r"t-train\.training\.schedule\.warmup: .*7 steps, and the whole run is 6"):
        trained(section(training=training), tokens, tmp_path)
    assert not list(tmp_path.iterdir())
