"""What nanotron 0.4 gets wrong, on one rank in this process: each test fails without its mend.

What takes several ranks to go wrong is tested on several: the start that tensor parallelism would change, sends that
would deadlock and the optimizer's state under another layout in `test_train.py` and `test_resume.py`.
"""

import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import attrs
import numpy as np
import pytest
import torch
from tiny_training import LENGTH, NETWORK, TRAINING, VOCAB_SIZE, section, trained, write_tokens
from transformers import LlamaForCausalLM

from llmrecipe import Parallelism, Steps
from llmrecipe.engines.models.llama.architecture import ARCHITECTURE as LLAMA
from llmrecipe.engines.nanotron import launcher, weights
from llmrecipe.engines.nanotron.job import Job
from llmrecipe.engines.nanotron.launcher import FinishedRun
from llmrecipe.engines.nanotron.port import bootstrap
from llmrecipe.engines.runs import jobs
from llmrecipe.engines.tokens.mixture import TokenMixture
from llmrecipe.recipe.optimizer import SGD
from llmrecipe.recipe.schedule import Constant

ALONE = Parallelism(micro_batch_size=4)
SIX = attrs.evolve(TRAINING, duration=Steps(6), validation_interval=3)
# A step whose update is its gradient.
ONE = attrs.evolve(
    TRAINING,
    duration=Steps(1),
    optimizer=SGD(learning_rate=0.5, momentum=0.0, weight_decay=0.0),
    schedule=Constant(warmup=Steps(0)),
    clip_grad_norm=None,
)
EMBEDDING = "model.embed_tokens.weight"


@pytest.fixture(scope="module")
def tokens(tmp_path_factory) -> Path:
    return write_tokens(tmp_path_factory.mktemp("data") / "tokens", train=20_000, heldout=2_000)


@pytest.fixture(scope="module")
def train(tokens) -> Callable[..., FinishedRun]:
    """Trains in this process, where a step takes less time than starting a rank."""
    bootstrap.load("cpu")
    from llmrecipe.engines.nanotron.build import join_single_process
    from llmrecipe.engines.nanotron.trainer import Trainer

    def run_here(name: str, module: str, arguments: list[str], **_: int) -> None:
        join_single_process()
        Trainer(jobs.read(Path(arguments[0]), Job)).run()

    root = logging.getLogger()
    level, handlers = root.level, {handler: handler.level for handler in root.handlers}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(launcher, "run_ranks", run_here)
        yield lambda what, scratch, **runtime: trained(what, tokens, scratch, **runtime)
    # nanotron sets them all for its process, pytest's handlers included.
    root.setLevel(level)
    root.handlers[:] = handlers
    for handler, its_level in handlers.items():
        handler.setLevel(its_level)


@pytest.fixture(scope="module")
def one_step(train, tmp_path_factory) -> FinishedRun:
    return train(section(ALONE, training=ONE), tmp_path_factory.mktemp("one"))


@pytest.fixture(scope="module")
def plain(tokens) -> LlamaForCausalLM:
    """transformers' network with the gradients of the first step."""
    torch.manual_seed(ONE.seed)
    network = LlamaForCausalLM(LLAMA.transformers_config(NETWORK, VOCAB_SIZE, 0))
    # transformers doesn't train the embedding of the padding token, which here is the end of every text.
    network.model.embed_tokens.padding_idx = None
    row = np.fromfile(tokens / "train" / "00000.ds", "<u2").astype(np.int64)
    order = np.random.default_rng([ONE.seed, 0]).permutation((len(row) - 1) // LENGTH)
    batch = torch.stack([torch.from_numpy(row[i * LENGTH : (i + 1) * LENGTH + 1]) for i in order[:8]])
    logits = network(input_ids=batch[:, :-1]).logits
    network.loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
    network.loss.backward()
    return network


def update(result: FinishedRun, plain: LlamaForCausalLM, name: str) -> torch.Tensor:
    """By how much the step has moved a weight."""
    after = LLAMA.to_transformers(weights.read_whole(result.checkpoint), NETWORK, VOCAB_SIZE)[name]
    return after - plain.state_dict()[name]


def test_rope_theta_is_that_of_the_recipe(one_step, plain):
    """nanotron has no key for it and trains with 10,000."""
    assert NETWORK.rope_theta != 10_000
    assert one_step.metrics[0]["loss"] == pytest.approx(plain.loss.item(), rel=1e-6)


def test_the_first_step_learns_at_its_full_rate(one_step, plain):
    """nanotron's own warm-up begins at 0, and without one it squares the rate."""
    assert one_step.metrics[0]["learning_rate"] == 0.5
    name = "model.layers.1.mlp.down_proj.weight"
    torch.testing.assert_close(update(one_step, plain, name), -0.5 * plain.get_parameter(name).grad)


def test_the_padding_token_learns_like_any_other(one_step, plain):
    """nanotron would make it the `padding_idx` of every rank's shard of the embedding."""
    padding = plain.config.pad_token_id
    gradient = plain.get_parameter(EMBEDDING).grad[padding]
    assert gradient.abs().max() > 0
    torch.testing.assert_close(update(one_step, plain, EMBEDDING)[padding], -0.5 * gradient)


def test_a_resumed_step_has_the_learning_rate_and_the_result_that_it_would_have_had(train, tmp_path):
    """nanotron's would run with the rate of step 0."""
    once = train(section(ALONE, training=SIX), tmp_path / "once")
    twice = resumed(train, tmp_path / "twice", ALONE, ALONE)

    assert twice.metrics == once.metrics
    expected, found = weights.read_whole(once.checkpoint), weights.read_whole(twice.checkpoint)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.slow
def test_the_optimizers_state_is_found_under_another_sharding(train, tmp_path):
    """nanotron looks for a file that another ZeRO stage has not written."""
    once = train(section(ALONE, training=SIX), tmp_path / "once")
    sharded = attrs.evolve(ALONE, zero_stage=1)

    for name, before, after in (("on", ALONE, sharded), ("off", sharded, ALONE)):
        twice = resumed(train, tmp_path / name, before, after)
        losses = [row["loss"] for row in once.metrics]
        assert [row["loss"] for row in twice.metrics] == pytest.approx(losses, rel=1e-6)


def resumed(train: Callable[..., FinishedRun], scratch: Path, before: Parallelism, after: Parallelism) -> FinishedRun:
    """Six steps, of which the last three are done under another layout."""
    train(section(before, training=SIX), scratch, checkpoint_interval=3)
    shutil.rmtree(next(scratch.glob("*/checkpoints/6")))
    return train(section(after, training=SIX), scratch, checkpoint_interval=3)


def test_shapes_in_checkpoints_can_be_read_back_with_numpy_2():
    bootstrap.load("cpu")
    from nanotron.constants import CHECKPOINT_VERSION
    from nanotron.parallel.parameters import SlicesPair
    from nanotron.serialize.metadata import TensorMetadata

    pair = SlicesPair(local_slices=(slice(None),), global_slices=(slice(None),))
    shape = (np.int64(256), np.int64(64))
    written = TensorMetadata(CHECKPOINT_VERSION, (pair,), unsharded_shape=shape).to_str_dict()

    assert TensorMetadata.from_str_dict(written).unsharded_shape == (256, 64)


@pytest.mark.parametrize("micro_batch_size", [1, 3, 5])
def test_every_micro_batch_has_the_same_number_of_labels_across_epochs_too(tokens, micro_batch_size):
    """The loss is a mean per micro-batch: unequal counts would make it depend on the layout."""
    bootstrap.load("cpu")
    from llmrecipe.engines.nanotron import data

    files = TokenMixture.open([tokens], "train", [1.0])
    counts = set()
    for rank in range(2):
        shard = data.Shard(
            data_rank=rank,
            data_size=2,
            micro_batch_size=micro_batch_size,
            pipeline_rank=0,
            input_rank=0,
            output_rank=0,
        )
        reader = data.CausalReader(files=files, shard=shard, sequence_length=LENGTH)
        batches = data.TrainingBatches(reader, seed=1, consumed=0)
        two_epochs = 2 * files.num_windows(LENGTH) // (2 * micro_batch_size)
        counts |= {int(next(batches)["label_mask"].sum()) for _ in range(two_epochs)}

    assert counts == {micro_batch_size * LENGTH}
