"""A run that is killed at any moment, and goes on, ends with the same bytes; several ranks learn what one does."""

import signal

import pytest
import tiny_model
import torch
from safetensors.torch import load_file
from tiny_distillation import column, distilled, killed, section, weights, with_training

from llmrecipe import artifacts, distil
from llmrecipe.engines.runs.checkpoints import checkpoints
from llmrecipe.errors import StageError
from llmrecipe.recipe.optimizer import SGD, AdamW

pytestmark = pytest.mark.slow

STATE = ("weights.safetensors", "optimizer.safetensors")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A teacher and its tokens."""
    inputs = tiny_model.make(tmp_path_factory.mktemp("made"))
    return {"teacher": inputs["model"], "tokens": inputs["tokens"]}


@pytest.fixture(scope="module")
def straight(made, tmp_path_factory):
    return distilled(section(), made, tmp_path_factory.mktemp("straight"), ranks=True)


def assert_same(one, other) -> None:
    assert one.metrics == other.metrics
    for file in STATE:
        digests = {artifacts.file_digest(each.state.checkpoint(6) / file) for each in (one, other)}
        assert len(digests) == 1


def test_killed_at_each_moment_of_a_checkpoint_it_ends_with_the_same_bytes(made, tmp_path, straight):
    """One run, killed again each time that it has been continued."""
    moments = [
        # Weights are there, and what the optimizer remembers isn't.
        ("open", r"\.2\.tmp/\.manifest.json.tmp", []),
        # All is there, under another name.
        ("os.rename", r"/checkpoints/2$", []),
        ("os.rename", r"/checkpoints/4$", [2]),
        # One more than is kept.
        ("shutil.rmtree", r"/checkpoints/2$", [2, 4, 6]),
    ]
    for event, path, left in moments:
        status = killed(section(), made, tmp_path, event, path, checkpoint_interval=2)
        assert status == -signal.SIGKILL
        (folder,) = tmp_path.glob("*/checkpoints")
        assert sorted(step for step, _ in checkpoints(folder)) == left
    assert_same(distilled(section(), made, tmp_path, checkpoint_interval=2), straight)


@pytest.mark.parametrize(
    "optimizer", [AdamW(learning_rate=3e-3), SGD(learning_rate=0.1), SGD(learning_rate=0.1, momentum=0.0)], ids=str
)
def test_a_run_goes_on_after_its_newest_whole_checkpoint(made, tmp_path, optimizer, caplog):
    what = with_training(section(), optimizer=optimizer)
    whole = distilled(what, made, tmp_path / "whole")
    distilled(what, made, tmp_path / "again", checkpoint_interval=2, keep_checkpoints=3)
    (folder,) = (tmp_path / "again").glob("*/checkpoints")
    damaged = folder / "6" / "weights.safetensors"
    content = bytearray(damaged.read_bytes())
    content[-1] ^= 1
    damaged.write_bytes(content)
    with caplog.at_level("INFO", logger="llmrecipe"):
        assert_same(distilled(what, made, tmp_path / "again", checkpoint_interval=2), whole)
    assert "the checkpoint of step 6 is damaged and put aside" in caplog.text
    assert "resumes after step 4 of 6" in caplog.text


def test_another_run_does_not_go_on_from_it(made, tmp_path, straight):
    distilled(section(), made, tmp_path)
    other = distilled(section(hard_loss_weight=0.5), made, tmp_path)
    assert column(other, "loss")[0] != column(straight, "loss")[0]
    assert len(list(tmp_path.glob("*/checkpoints"))) == 2


@pytest.mark.parametrize("ranks", [2, 4])
def test_ranks_learn_together_what_one_learns_and_resume_exactly(made, tmp_path, straight, ranks):
    agree(section(data=ranks, micro_batch_size=2), made, tmp_path, straight)


@pytest.mark.parametrize("zero_stage", [0, 3])
def test_ranks_learn_a_projection_together(made, tmp_path, zero_stage):
    hidden = distil.HiddenStates(weight=3.0)
    alone = distilled(section(hidden_states=hidden), made, tmp_path / "alone")
    together = agree(
        section(data=2, micro_batch_size=2, hidden_states=hidden, zero_stage=zero_stage), made, tmp_path, alone
    )
    one, other = (load_file(run.state.checkpoint(6) / "weights.safetensors") for run in (alone, together))
    torch.testing.assert_close(other, one, rtol=0, atol=3e-4)
    assert one.keys() - weights(alone).keys() == {"hidden_states_projection.weight"}


@pytest.mark.parametrize("ranks", [2, 4])
def test_ranks_that_share_both_models_learn_what_one_learns_and_resume_exactly(made, tmp_path, straight, ranks):
    agree(section(data=ranks, micro_batch_size=2, zero_stage=3), made, tmp_path, straight)


def agree(what, made, tmp_path, straight):
    """A run of several ranks, which learn what one does, and resume exactly."""
    together = distilled(what, made, tmp_path / "together", ranks=True)
    for name, tolerance in (("loss", 1e-5), ("validation_loss", 1e-5), ("grad_norm", 1e-4)):
        assert column(together, name) == pytest.approx(column(straight, name), rel=tolerance)
    for name, weight in weights(straight).items():
        torch.testing.assert_close(weights(together)[name], weight, rtol=0, atol=3e-4)
    for file in STATE:
        one, other = (load_file(run.state.checkpoint(6) / file) for run in (straight, together))
        # Nothing in a checkpoint tells how many ranks there were.
        assert {name: each.shape for name, each in one.items()} == {name: each.shape for name, each in other.items()}
    assert len(together.measurements["peak_memory_mb"]) == what.parallelism.data

    # As if it had been killed after step 4.
    distilled(what, made, tmp_path / "again", ranks=True, checkpoint_interval=4)
    (folder,) = (tmp_path / "again").glob("*/checkpoints")
    artifacts.write_text(folder / "6" / "weights.safetensors", "damaged")
    assert_same(distilled(what, made, tmp_path / "again", ranks=True), together)
    return together


def test_a_rank_that_fails_says_why(made, tmp_path):
    what = with_training(section(data=2, micro_batch_size=2), optimizer=AdamW(learning_rate=1e30), clip_grad_norm=None)
    with pytest.raises(StageError, match=r"^t-distil: step 2 has .*nan\. A lower"):
        distilled(what, made, tmp_path, ranks=True)
