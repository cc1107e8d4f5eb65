"""A training that goes on from a checkpoint: under any layout, past a damaged one, and never from another meaning."""

import logging
import shutil
from pathlib import Path

import attrs
import pytest
import torch
from tiny_training import NETWORK, TRAINING, column, section, trained, write_tokens

from llmrecipe import Parallelism, Steps, Training, artifacts
from llmrecipe.engines.nanotron import weights
from llmrecipe.errors import StageError
from llmrecipe.recipe.optimizer import SGD, AdamW, Muon
from llmrecipe.recipe.schedule import WarmupStableDecay

pytestmark = pytest.mark.slow

LAYOUTS = {
    "one": Parallelism(micro_batch_size=4),
    "data": Parallelism(data=2, micro_batch_size=2),
    "zero": Parallelism(data=2, micro_batch_size=4, zero_stage=1),
    "tensor": Parallelism(tensor=2, micro_batch_size=4),
    "sequence": Parallelism(tensor=2, micro_batch_size=4, tensor_parallel_mode="reduce_scatter"),
    "pipeline": Parallelism(pipeline=2, micro_batch_size=2),
    "both": Parallelism(tensor=2, pipeline=2, micro_batch_size=2),
}


@pytest.fixture(scope="module")
def tokens(tmp_path_factory) -> Path:
    return write_tokens(tmp_path_factory.mktemp("data") / "tokens", train=20_000, heldout=2_000)


@pytest.fixture(scope="module")
def straight(tokens, tmp_path_factory):
    return trained(section(LAYOUTS["one"]), tokens, tmp_path_factory.mktemp("straight"))


def interrupted(layout: str, tokens: Path, scratch: Path, training: Training = TRAINING) -> Path:
    """A training of ten steps that ended after its checkpoint of step 5; the folder of its checkpoints."""
    trained(section(LAYOUTS[layout], training=training), tokens, scratch, checkpoint_interval=5)
    checkpoints = next(scratch.glob("*/checkpoints"))
    shutil.rmtree(checkpoints / "10")
    return checkpoints


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("one", "tensor"),
        ("tensor", "pipeline"),
        ("pipeline", "zero"),
        ("zero", "sequence"),
        ("data", "both"),
        ("both", "one"),
    ],
)
def test_a_training_continues_under_another_layout(tokens, tmp_path, straight, before, after, caplog):
    interrupted(before, tokens, tmp_path)
    with caplog.at_level(logging.INFO, logger="llmrecipe"):
        result = trained(section(LAYOUTS[after]), tokens, tmp_path)

    assert "resumes after step 5 of 10" in caplog.text
    assert [row["step"] for row in result.metrics] == list(range(1, 11))
    assert column(result, "loss") == pytest.approx(column(straight, "loss"), rel=1e-5)
    assert column(result, "learning_rate") == column(straight, "learning_rate")
    expected, found = weights.read_whole(straight.checkpoint), weights.read_whole(result.checkpoint)
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=0, atol=1e-4)


@pytest.mark.parametrize(("before", "after"), [("tensor", "zero"), ("zero", "both")])
def test_muon_continues_under_another_layout(tokens, tmp_path, before, after):
    training = attrs.evolve(TRAINING, optimizer=Muon(learning_rate=1e-2))
    straight = trained(section(LAYOUTS["one"], training=training), tokens, tmp_path / "straight")
    interrupted(before, tokens, tmp_path / "moved", training)
    moved = trained(section(LAYOUTS[after], training=training), tokens, tmp_path / "moved")

    assert column(moved, "loss") == pytest.approx(column(straight, "loss"), rel=1e-5)


def test_tied_embeddings_continue_under_another_layout(tokens, tmp_path):
    model = attrs.evolve(NETWORK, tie_word_embeddings=True)
    straight = trained(section(LAYOUTS["one"], network=model), tokens, tmp_path / "straight")
    trained(section(LAYOUTS["pipeline"], network=model), tokens, tmp_path / "moved", checkpoint_interval=5)
    shutil.rmtree(next((tmp_path / "moved").glob("*/checkpoints/10")))
    moved = trained(section(LAYOUTS["tensor"], network=model), tokens, tmp_path / "moved")

    assert column(moved, "loss") == pytest.approx(column(straight, "loss"), rel=1e-5)
    expected, found = weights.read_whole(straight.checkpoint), weights.read_whole(moved.checkpoint)
    assert found.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    "changes",
    [
        {"precision": "bfloat16"},
        {"optimizer": SGD(learning_rate=0.05, momentum=0.9)},
        {"optimizer": SGD(learning_rate=0.05, momentum=0.0)},
        {
            "optimizer": AdamW(learning_rate=1e-3, no_decay=()),
            "schedule": WarmupStableDecay(warmup=Steps(3), decay=Steps(6)),
        },
        {"optimizer": Muon(learning_rate=1e-2)},
    ],
    ids=["bfloat16", "momentum", "plain", "schedule", "orthogonal"],
)
def test_the_same_layout_continues_bit_for_bit(tokens, tmp_path, changes):
    training = attrs.evolve(TRAINING, **changes)
    once = trained(section(LAYOUTS["zero"], training=training), tokens, tmp_path / "once")
    interrupted("zero", tokens, tmp_path / "twice", training)
    twice = trained(section(LAYOUTS["zero"], training=training), tokens, tmp_path / "twice")

    assert twice.metrics == once.metrics
    expected, found = weights.read_whole(once.checkpoint), weights.read_whole(twice.checkpoint)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_a_finished_training_under_another_layout_starts_no_ranks(tokens, tmp_path, monkeypatch):
    first = trained(section(LAYOUTS["one"]), tokens, tmp_path)
    monkeypatch.setattr("llmrecipe.engines.nanotron.launcher.run_ranks", None)
    assert trained(section(LAYOUTS["tensor"]), tokens, tmp_path).checkpoint == first.checkpoint


def test_a_flipped_bit_is_found_and_named_and_the_checkpoint_before_used(tokens, tmp_path, caplog):
    once = trained(section(LAYOUTS["one"]), tokens, tmp_path / "once")
    trained(section(LAYOUTS["one"]), tokens, tmp_path / "twice", checkpoint_interval=5)
    newest = next((tmp_path / "twice").glob("*/checkpoints/10"))
    shard = sorted((newest / "model").rglob("*.safetensors"))[3]
    content = bytearray(shard.read_bytes())
    content[-2] ^= 1
    shard.write_bytes(content)

    twice = trained(section(LAYOUTS["one"]), tokens, tmp_path / "twice", checkpoint_interval=5)

    assert f"the checkpoint of step 10 is damaged and put aside as {newest.with_name('damaged-10')}" in caplog.text
    assert shard.name in caplog.text
    assert twice.metrics == once.metrics
    expected, found = weights.read_whole(once.checkpoint), weights.read_whole(twice.checkpoint)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_another_meaning_starts_afresh_beside_and_says_what_differs(tokens, tmp_path, caplog):
    first = trained(section(LAYOUTS["one"]), tokens, tmp_path)
    other = attrs.evolve(TRAINING, seed=2, clip_grad_norm=None)
    for earlier in ("a", "b"):
        shutil.copytree(first.checkpoint.parent.parent, tmp_path / earlier)
        meaning = next((tmp_path / earlier).glob("meaning.json"))
        meaning.write_text(meaning.read_text().replace('"vocab_size": 500', f'"vocab_size": "{"9" * 200}"'))
    with caplog.at_level(logging.INFO, logger="llmrecipe"):
        second = trained(section(LAYOUTS["one"], training=other), tokens, tmp_path)

    (said,) = (line for line in caplog.text.splitlines() if "starts afresh" in line)
    assert f"an earlier run is kept in {first.checkpoint.parent.parent} (and 2 more beside it), with" in said
    assert "training.clip_grad_norm: 1.0 → null, training.seed: 1 → 2" in caplog.text
    assert first.checkpoint.exists()
    assert second.checkpoint.parent.parent != first.checkpoint.parent.parent
    assert column(second, "loss")[0] != column(first, "loss")[0]


def test_a_checkpoint_whose_best_one_is_damaged_is_not_taken_up_later(tokens, tmp_path, monkeypatch):
    """It was made after steps that by then are no longer in the log."""
    best = attrs.evolve(TRAINING, select="best")
    once = trained(section(LAYOUTS["one"], training=best), tokens, tmp_path, checkpoint_interval=5)
    state = once.checkpoint.parent.parent
    rows = [row | ({"validation_loss": 9.0} if row["step"] == 10 else {}) for row in once.metrics]
    artifacts.write_jsonl(state / "metrics.jsonl", rows)
    shutil.rmtree(state / "checkpoints" / "5")
    with monkeypatch.context() as patch:
        patch.setattr("llmrecipe.engines.nanotron.launcher.run_ranks", _killed)
        with pytest.raises(StageError, match="killed before its first step"):
            trained(section(LAYOUTS["one"], training=best), tokens, tmp_path, checkpoint_interval=5)

    twice = trained(section(LAYOUTS["one"], training=best), tokens, tmp_path, checkpoint_interval=5)

    assert twice.metrics == once.metrics


def _killed(*_, **__) -> None:
    raise StageError("killed before its first step")
