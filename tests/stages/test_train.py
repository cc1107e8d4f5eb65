"""The train stage on real torchrun ranks."""

import json
import signal
from pathlib import Path

import attrs
import numpy as np
import psutil
import pytest
import torch
import yaml
from plain_training import plain_losses
from tiny_training import LENGTH, NETWORK, TRAINING, VOCAB_SIZE, column, section, trained, write_tokens
from train_project import SLOW, Project
from transformers import LlamaForCausalLM

from llmrecipe import Parallelism, Steps
from llmrecipe.engines.models.llama.architecture import ARCHITECTURE as LLAMA
from llmrecipe.engines.nanotron import weights
from llmrecipe.engines.nanotron.port import bootstrap
from llmrecipe.engines.tokens.mixture import TokenMixture
from llmrecipe.errors import StageError
from llmrecipe.recipe.optimizer import SGD


@pytest.fixture(scope="module")
def tokens(tmp_path_factory) -> Path:
    return write_tokens(tmp_path_factory.mktemp("data") / "tokens", train=20_000, heldout=2_000)


TWENTY = attrs.evolve(TRAINING, duration=Steps(20))
TIED = attrs.evolve(NETWORK, tie_word_embeddings=True)


@pytest.fixture(scope="module")
def one_rank(tokens, tmp_path_factory):
    return trained(section(training=TWENTY), tokens, tmp_path_factory.mktemp("one"))


LAYOUTS = {
    "micro-1": Parallelism(micro_batch_size=1),
    "micro-2": Parallelism(micro_batch_size=2),
    "micro-8": Parallelism(micro_batch_size=8),
    "data": Parallelism(data=2, micro_batch_size=2),
    "tensor": Parallelism(tensor=2, micro_batch_size=4),
    "sequence": Parallelism(tensor=2, micro_batch_size=4, tensor_parallel_mode="reduce_scatter"),
    "pipeline": Parallelism(pipeline=2, micro_batch_size=2),
    "all-forward": Parallelism(pipeline=2, micro_batch_size=2, pipeline_schedule="afab"),
    "zero": Parallelism(data=2, micro_batch_size=4, zero_stage=1),
    "tensor-pipeline": Parallelism(tensor=2, pipeline=2, micro_batch_size=2),
    "data-tensor": Parallelism(data=2, tensor=2, micro_batch_size=2),
    "zero-sequence": Parallelism(
        data=2, tensor=2, micro_batch_size=4, zero_stage=1, tensor_parallel_mode="reduce_scatter"
    ),
    "all": Parallelism(data=2, tensor=2, pipeline=2, micro_batch_size=2),
}


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_layout_changes_neither_losses_nor_weights(tokens, tmp_path, one_rank, layout):
    # One with ranks that have nothing in common, not even the order of their sets.
    result = trained(section(LAYOUTS[layout], training=TWENTY), tokens, tmp_path, forks=layout != "tensor-pipeline")

    assert len(result.metrics) == 20
    assert column(result, "samples") == column(one_rank, "samples")
    assert column(result, "loss") == pytest.approx(column(one_rank, "loss"), rel=1e-5)
    assert column(result, "validation_loss") == pytest.approx(column(one_rank, "validation_loss"), rel=1e-5)
    assert column(result, "grad_norm") == pytest.approx(column(one_rank, "grad_norm"), rel=1e-4)
    assert_weights_close(result, one_rank)


@pytest.mark.slow
def test_tied_embeddings_train_alike_on_four_ranks_and_in_a_plain_loop(tokens, tmp_path):
    alone = trained(section(network=TIED, training=TWENTY), tokens, tmp_path / "alone")
    layout = Parallelism(tensor=2, pipeline=2, micro_batch_size=2, tensor_parallel_mode="reduce_scatter")
    spread = trained(section(layout, network=TIED, training=TWENTY), tokens, tmp_path / "spread")

    assert column(spread, "loss") == pytest.approx(column(alone, "loss"), rel=1e-5)
    assert_weights_close(spread, alone)
    assert column(alone, "loss") == pytest.approx(plain_losses(tokens, TWENTY, TIED), rel=1e-4)


@pytest.mark.slow
def test_a_plain_transformers_loop_has_the_same_losses(tokens, one_rank):
    assert column(one_rank, "loss") == pytest.approx(plain_losses(tokens, TWENTY), rel=1e-4)


@pytest.mark.slow
def test_bfloat16_accumulates_in_float32_under_zero(tokens, tmp_path, one_rank):
    """What a GPU does by default, on a CPU."""
    layout = Parallelism(data=2, micro_batch_size=2, zero_stage=1)
    result = trained(section(layout, training=attrs.evolve(TWENTY, precision="bfloat16")), tokens, tmp_path)

    assert all(weight.dtype == torch.bfloat16 for weight in weights.read_whole(result.checkpoint).values())
    assert column(result, "loss") == pytest.approx(column(one_rank, "loss"), rel=5e-3)


def assert_weights_close(result, expected) -> None:
    found, wanted = weights.read_whole(result.checkpoint), weights.read_whole(expected.checkpoint)
    assert found.keys() == wanted.keys()
    for name in wanted:
        torch.testing.assert_close(found[name], wanted[name], rtol=0, atol=1e-4)


def test_weights_survive_the_way_to_nanotron_and_back():
    torch.manual_seed(0)
    model = LlamaForCausalLM(LLAMA.transformers_config(NETWORK, VOCAB_SIZE, 0))
    state = model.state_dict()

    back = LLAMA.to_transformers(LLAMA.from_transformers(state, NETWORK), NETWORK, VOCAB_SIZE)

    assert back.keys() == state.keys()
    assert all(torch.equal(back[name], state[name]) for name in state)


def test_the_first_weights_are_those_of_transformers():
    torch.manual_seed(3)
    expected = LlamaForCausalLM(LLAMA.transformers_config(NETWORK, VOCAB_SIZE, 0)).state_dict()

    found = LLAMA.to_transformers(LLAMA.first_weights(NETWORK, VOCAB_SIZE, 0, seed=3), NETWORK, VOCAB_SIZE)

    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_a_rank_reads_its_part_of_every_batch(tokens):
    bootstrap.load("cpu")
    from llmrecipe.engines.nanotron import data

    files = TokenMixture.open([tokens], "train", [1.0])
    order = np.random.default_rng([5, 0]).permutation(files.num_windows(LENGTH))[16:32]
    expected = np.stack([files.window(index, LENGTH) for index in order])
    for data_size, micro_batch_size in ((1, 8), (2, 2), (4, 1)):
        rows: dict[int, list[int]] = {}
        for rank in range(data_size):
            shard = data.Shard(
                data_rank=rank,
                data_size=data_size,
                micro_batch_size=micro_batch_size,
                pipeline_rank=0,
                input_rank=0,
                output_rank=0,
            )
            reader = data.CausalReader(files=files, shard=shard, sequence_length=LENGTH)
            batches = data.TrainingBatches(reader, seed=5, consumed=16)
            for index in range(16 // (data_size * micro_batch_size)):
                batch = next(batches)
                for row in range(micro_batch_size):
                    position = (index * data_size + rank) * micro_batch_size + row
                    rows[position] = [*batch["input_ids"][row].tolist(), batch["label_ids"][row, -1].item()]
        assert [rows[position] for position in range(16)] == expected.tolist()


def test_a_corpus_smaller_than_a_batch_is_refused(tmp_path):
    tokens = write_tokens(tmp_path / "tokens", train=500, heldout=200)

    with pytest.raises(StageError, match="7 sequences of 64, fewer than one batch of 8"):
        trained(section(), tokens, tmp_path / "scratch")


def test_a_heldout_split_shorter_than_a_sequence_is_refused(tmp_path):
    tokens = write_tokens(tmp_path / "tokens", train=2_000, heldout=60)

    with pytest.raises(StageError, match="held-out split has 60 tokens, less than one sequence of 64"):
        trained(section(), tokens, tmp_path / "scratch")


@pytest.mark.slow
def test_a_training_that_runs_away_names_its_step_and_what_to_lower(tokens, tmp_path):
    wild = attrs.evolve(TRAINING, optimizer=SGD(learning_rate=1e30), clip_grad_norm=None)
    with pytest.raises(StageError, match=r"t-train: step \d+ has .*(nan|inf).*A lower training"):
        trained(section(Parallelism(data=2, micro_batch_size=4), training=wild), tokens, tmp_path)


@pytest.fixture(scope="module")
def uninterrupted(tokens, tmp_path_factory):
    project = Project(tmp_path_factory.mktemp("project") / "straight", tokens, Parallelism(data=2, micro_batch_size=4))
    project.finish()
    return project.outputs()


@pytest.mark.slow
def test_a_killed_rank_is_named_and_the_training_continues_to_the_same_bytes(tokens, tmp_path, uninterrupted):
    project = Project(tmp_path / "killed", tokens, Parallelism(data=2, micro_batch_size=4))
    process = project.start()
    project.wait_for_step(8, process)
    ranks = {rank.environ()["RANK"]: rank for rank in psutil.Process(process.pid).children()}
    ranks["1"].send_signal(signal.SIGKILL)
    message = process.communicate(timeout=120)[1]

    assert process.returncode == 1
    assert "t-train: rank 1 was killed by SIGKILL" in message
    assert "continues from the last checkpoint" in message
    assert project.outputs() == {}

    assert "step 1/30" not in project.finish()
    assert project.outputs() == uninterrupted


@pytest.mark.slow
def test_ranks_die_with_their_launcher_and_past_a_truncated_checkpoint_it_goes_on_to_the_same_bytes(
    tokens, tmp_path, uninterrupted
):
    project = Project(tmp_path / "orphans", tokens, Parallelism(data=2, micro_batch_size=4))
    process = project.start()
    project.wait_for_step(16, process)
    ranks = psutil.Process(process.pid).children()
    process.kill()
    process.wait()
    _, alive = psutil.wait_procs(ranks, timeout=10)

    assert len(ranks) == 2
    assert alive == []

    newest = max(project.root.glob(".llmrecipe/t-train/*/checkpoints/*[0-9]"), key=lambda path: int(path.name))
    shard = next((newest / "model").rglob("*.safetensors"))
    shard.write_bytes(shard.read_bytes()[:-8])
    message = project.finish()

    assert (newest.parent / f"damaged-{newest.name}").exists()
    assert f"resumes after step {int(newest.name) - 5} of 30" in message
    assert project.outputs() == uninterrupted
    assert project.steps_logged() == list(range(1, 31))
    measured = json.loads(next(project.root.glob(".llmrecipe/times/t-train/*/run.json")).read_text())
    assert measured["communication_percent"].keys() == {"data", "other"}
    assert len(measured["peak_memory_mb"]) == 2


@pytest.mark.slow
def test_a_second_writer_is_refused_and_an_edited_section_fails_the_stage(tokens, tmp_path):
    long = attrs.evolve(SLOW, duration=Steps(120))
    project = Project(tmp_path / "busy", tokens, Parallelism(micro_batch_size=4), long)
    process = project.start()
    project.wait_for_step(1, process)
    second = project.start()
    message = second.communicate(timeout=120)[1]

    assert second.returncode == 1
    assert f"process {process.pid} is running t-train" in message

    parameters = yaml.safe_load((project.root / "params.yaml").read_text())
    parameters["t-train"]["training"]["seed"] = 2
    (project.root / "params.yaml").write_text(yaml.safe_dump(parameters))
    message = process.communicate(timeout=120)[1]

    assert process.returncode == 1
    assert "its section of params.yaml changed while it ran" in message
    assert project.outputs() == {}
