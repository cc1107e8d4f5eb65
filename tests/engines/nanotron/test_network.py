"""What the network adds to nanotron's: dropout, recomputation, z-loss."""

import shutil
from pathlib import Path

import attrs
import pytest
import torch
from plain_training import documents, plain_losses
from tiny_training import LENGTH, NETWORK, TRAINING, column, section, trained, write_tokens

from llmrecipe import CausalLM, Dropout, Parallelism, Steps
from llmrecipe.engines.nanotron import weights
from llmrecipe.engines.nanotron.port import bootstrap
from llmrecipe.engines.tokens.packing import PackedDocuments

DROPOUT = attrs.evolve(TRAINING, dropout=Dropout(residual=0.1, attention=0.2, embedding=0.1))
ALONE = Parallelism(micro_batch_size=4)
LAYOUTS = {
    "data": Parallelism(data=2, micro_batch_size=2, zero_stage=1),
    "tensor": Parallelism(tensor=2, micro_batch_size=4),
    "sequence": Parallelism(tensor=2, micro_batch_size=8, tensor_parallel_mode="reduce_scatter"),
    "pipeline": Parallelism(pipeline=2, micro_batch_size=1, recompute_activations=True),
    "both": Parallelism(tensor=2, pipeline=2, micro_batch_size=2, pipeline_schedule="afab"),
}


@pytest.fixture(scope="module")
def tokens(tmp_path_factory) -> Path:
    return write_tokens(tmp_path_factory.mktemp("data") / "tokens", train=20_000, heldout=2_000)


@pytest.fixture(scope="module")
def with_dropout(tokens, tmp_path_factory):
    return trained(section(ALONE, training=DROPOUT), tokens, tmp_path_factory.mktemp("dropout"))


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_drops_the_same(tokens, tmp_path, with_dropout, layout):
    result = trained(section(LAYOUTS[layout], training=DROPOUT), tokens, tmp_path)

    assert column(result, "loss") == pytest.approx(column(with_dropout, "loss"), rel=1e-5)
    assert column(result, "validation_loss") == pytest.approx(column(with_dropout, "validation_loss"), rel=1e-5)
    assert column(result, "samples") == column(with_dropout, "samples")


@pytest.mark.slow
def test_dropout_is_off_at_validation_and_on_in_training(tokens, tmp_path, with_dropout):
    """At a learning rate of almost nothing the two losses tell what was dropped."""
    still = attrs.evolve(TRAINING.optimizer, learning_rate=1e-12)
    plain = trained(section(ALONE, training=attrs.evolve(TRAINING, optimizer=still)), tokens, tmp_path)
    dropped = trained(section(ALONE, training=attrs.evolve(DROPOUT, optimizer=still)), tokens, tmp_path)

    assert column(dropped, "validation_loss") == pytest.approx(column(plain, "validation_loss"), rel=1e-6)
    assert all(abs(a - b) > 1e-6 for a, b in zip(column(dropped, "loss"), column(plain, "loss"), strict=True))


def test_a_mask_drops_its_share_scales_the_rest_and_depends_on_seed_sample_and_place():
    dropout = _dropout(seed=1, residual=0.25)
    ones = torch.ones(100, 2, 50, requires_grad=True)

    result = dropout.of_tokens(ones, 0.25, "here", samples=(7, 8))

    assert result.unique().tolist() == pytest.approx([0.0, 1 / 0.75])
    assert (result == 0).float().mean().item() == pytest.approx(0.25, abs=0.02)
    assert torch.equal(result, dropout.of_tokens(ones, 0.25, "here", samples=(7, 8)))
    assert torch.equal(result.flip(1), dropout.of_tokens(ones, 0.25, "here", samples=(8, 7)))
    for other in (
        dropout.of_tokens(ones, 0.25, "there", samples=(7, 8)),
        dropout.of_tokens(ones, 0.25, "here", samples=(9, 10)),
        _dropout(seed=2, residual=0.25).of_tokens(ones, 0.25, "here", samples=(7, 8)),
    ):
        assert (result == other).float().mean().item() == pytest.approx(0.625, abs=0.03)
    with torch.no_grad():
        assert dropout.of_tokens(ones, 0.25, "here", samples=(7, 8)) is ones


def _dropout(seed: int, **rates: float):
    bootstrap.load("cpu")
    from llmrecipe.engines.nanotron import build
    from llmrecipe.engines.nanotron.networks.dropout import Dropper

    group = build.single_process_context().tp_pg
    return Dropper(rates=Dropout(**rates), seed=seed, tensor_group=group, is_sequence_parallel=False)


@pytest.mark.slow
def test_recomputed_activations_change_no_bit(tokens, tmp_path):
    layout = attrs.evolve(ALONE, recompute_activations=True)
    training = attrs.evolve(DROPOUT, duration=Steps(4))
    kept = trained(section(ALONE, training=training), tokens, tmp_path / "kept")
    computed = trained(section(layout, training=training), tokens, tmp_path / "computed")

    assert computed.metrics == kept.metrics
    expected, found = weights.read_whole(kept.checkpoint), weights.read_whole(computed.checkpoint)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.slow
def test_z_loss_is_a_row_of_its_own_and_the_same_for_every_layout(tokens, tmp_path):
    training = attrs.evolve(TRAINING, z_loss=1e-2)
    alone = trained(section(ALONE, training=training), tokens, tmp_path / "alone")
    spread = trained(section(LAYOUTS["both"], training=training), tokens, tmp_path / "spread")
    without = trained(section(ALONE, training=TRAINING), tokens, tmp_path / "without")

    for name in ("loss", "z_loss"):
        assert column(spread, name) == pytest.approx(column(alone, name), rel=1e-5)
    # The first loss comes before anything is learned from: it is the cross-entropy alone.
    assert column(alone, "loss")[0] == pytest.approx(column(without, "loss")[0], rel=1e-6)
    assert column(alone, "loss")[1:] != column(without, "loss")[1:]
    assert column(alone, "z_loss")[-1] < column(alone, "z_loss")[0]


@pytest.mark.slow
def test_a_killed_training_with_dropout_continues_bit_for_bit(tokens, tmp_path, with_dropout):
    trained(section(ALONE, training=DROPOUT), tokens, tmp_path, checkpoint_interval=5)
    shutil.rmtree(next(tmp_path.glob("*/checkpoints/10")))
    result = trained(section(ALONE, training=DROPOUT), tokens, tmp_path)

    assert result.metrics == with_dropout.metrics
    expected, found = weights.read_whole(with_dropout.checkpoint), weights.read_whole(result.checkpoint)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_attention_with_its_weights_in_sight_is_torchs():
    bootstrap.load("cpu")
    from llmrecipe.engines.nanotron.networks import attention
    from llmrecipe.engines.nanotron.networks.micro_batch import Reach

    torch.manual_seed(0)
    query, key, value = (torch.randn(2, heads, 9, 8) for heads in (4, 2, 2))
    expected = torch.nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)
    attended = Reach().attended(9, query.device)

    found = attention.attention_with_weights(query, key, value, lambda weights: weights, attended)

    torch.testing.assert_close(found, expected)
    assert NETWORK.num_attention_heads != NETWORK.num_key_value_heads


@pytest.mark.slow
def test_documents_of_a_sequence_train_as_if_each_were_one_by_itself(tmp_path):
    """Against transformers' Llama, to which each is given by itself; on one rank and on four."""
    # A token that two of three runs pass: documents of about 75 tokens, most of which a sequence cuts.
    tokens = write_tokens(tmp_path / "tokens", train=20_000, heldout=2_000, end_of_text_id=60)
    layout = Parallelism(
        tensor=2, pipeline=2, micro_batch_size=2, tensor_parallel_mode="reduce_scatter", recompute_activations=True
    )
    objective = CausalLM(sequence_length=LENGTH, restart_at_documents=True)
    training = attrs.evolve(TRAINING, duration=Steps(5))
    alone, spread = (
        trained(attrs.evolve(section(where, training=training), objective=objective), tokens, tmp_path / name)
        for name, where in (("alone", ALONE), ("spread", layout))
    )
    expected = plain_losses(tokens, training, begin=60)

    assert column(alone, "loss") == pytest.approx(expected, rel=1e-5)
    assert column(spread, "loss") == pytest.approx(expected, rel=1e-5)
    assert column(spread, "validation_loss") == pytest.approx(column(alone, "validation_loss"), rel=1e-5)
    assert plain_losses(tokens, training)[-1] != pytest.approx(expected[-1], rel=1e-4)


def test_a_token_reads_what_its_document_has_before_it_and_counts_from_its_beginning():
    begin, length = 3, 12
    rows = torch.tensor([[1, 3, 1, 1, 3, 3, 1, 1, 1, 1, 1, 3], [3, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1], [1] * length])
    packed = PackedDocuments(rows == begin)

    for row, positions, attended in zip(rows, packed.positions, packed.attended, strict=True):
        pieces = documents(row, begin)
        assert positions.tolist() == [place for piece in pieces for place in range(piece.shape[1])]
        expected = torch.block_diag(*(torch.ones(piece.shape[1], piece.shape[1]).tril() for piece in pieces))
        assert torch.equal(attended[0], expected.bool())


def test_attention_with_its_weights_in_sight_keeps_to_documents_as_torchs_does():
    bootstrap.load("cpu")
    from llmrecipe.engines.nanotron.networks import attention

    torch.manual_seed(0)
    query, key, value = (torch.randn(2, heads, 9, 8) for heads in (4, 2, 2))
    attended = PackedDocuments(torch.rand(2, 9) < 0.3).attended
    expected = torch.nn.functional.scaled_dot_product_attention(query, key, value, attended, enable_gqa=True)

    found = attention.attention_with_weights(query, key, value, lambda weights: weights, attended)

    torch.testing.assert_close(found, expected)
