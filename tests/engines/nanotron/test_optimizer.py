"""How the learning rate moves, and which weights weight decay leaves alone."""

import math
from pathlib import Path

import attrs
import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from plain_training import plain_losses
from strategies import schedules
from tiny_training import LENGTH, MASKING, NETWORK, TRAINING, column, section, trained, write_tokens

from llmrecipe import Bert, Fraction, MaskedLM, Parallelism, Steps
from llmrecipe.engines.nanotron.port import bootstrap
from llmrecipe.engines.runs.schedule import learning_rate_factor
from llmrecipe.recipe.optimizer import SGD, AdamW, Muon
from llmrecipe.recipe.schedule import Constant, Cosine, InverseSquareRoot, Linear, WarmupStableDecay

ROOT_HALF = math.sqrt(1 / 2)


@pytest.fixture(scope="module")
def tokens(tmp_path_factory) -> Path:
    return write_tokens(tmp_path_factory.mktemp("data") / "tokens", train=20_000, heldout=2_000)


def factors(schedule, steps: int) -> list[float]:
    training = attrs.evolve(TRAINING, duration=Steps(steps), schedule=schedule)
    return [learning_rate_factor(training, LENGTH, step) for step in range(steps)]


def factors_of_transformers(build, steps: int, **options) -> list[float]:
    """The factors that transformers gives the steps 1 to `steps`; it spends its step 0 at a learning rate of 0."""
    factor = build(torch.optim.SGD([torch.zeros(1)], lr=1.0), **options).lr_lambdas[0]
    return [factor(step) for step in range(1, steps + 1)]


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (Constant(warmup=Steps(2)), [0.5, 1, 1, 1, 1]),
        (Linear(warmup=Steps(1), final=Fraction(0.2)), [1, 0.8, 0.6, 0.4, 0.2]),
        (Linear(warmup=Steps(0), final=Fraction(0.0)), [1, 0.75, 0.5, 0.25, 0]),
        (Cosine(warmup=Fraction(0.2), final=Fraction(0.0)), [1, 0.8535533905932737, 0.5, 0.14644660940672627, 0]),
        (Cosine(warmup=Steps(4), final=Fraction(0.1)), [0.25, 0.5, 0.75, 1, 0.1]),
        (InverseSquareRoot(warmup=Steps(2)), [0.5, 1, math.sqrt(2 / 3), ROOT_HALF, math.sqrt(2 / 5)]),
        (InverseSquareRoot(warmup=Steps(0)), [1, ROOT_HALF, math.sqrt(1 / 3), 0.5, math.sqrt(1 / 5)]),
        (WarmupStableDecay(warmup=Steps(2), decay=Steps(2)), [0.5, 1, 1, 0.5, 0]),
        (WarmupStableDecay(warmup=Steps(0), decay=Fraction(0.4), final=Fraction(0.2)), [1, 1, 1, 0.6, 0.2]),
        (WarmupStableDecay(warmup=Steps(1), decay=Steps(4), final=Fraction(0.2)), [1, 0.8, 0.6, 0.4, 0.2]),
        (WarmupStableDecay(warmup=Steps(0), decay=Steps(5)), [1, 0.75, 0.5, 0.25, 0]),
        (WarmupStableDecay(warmup=Steps(4), decay=Steps(1)), [0.25, 0.5, 0.75, 1, 0]),
    ],
)
def test_learning_rate_follows_its_schedule(schedule, expected):
    assert factors(schedule, 5) == pytest.approx(expected)


@pytest.mark.parametrize("warmup", [1, 7, 40])
def test_the_inverse_square_root_is_that_of_transformers(warmup):
    theirs = factors_of_transformers(transformers.get_inverse_sqrt_schedule, 100, num_warmup_steps=warmup)

    assert factors(InverseSquareRoot(warmup=Steps(warmup)), 100) == pytest.approx(theirs)


@pytest.mark.parametrize(("warmup", "decay"), [(10, 20), (1, 99), (50, 50), (0, 1)])
def test_warmup_stable_decay_is_that_of_transformers(warmup, decay):
    theirs = factors_of_transformers(
        transformers.get_wsd_schedule,
        100,
        num_warmup_steps=warmup,
        num_decay_steps=decay,
        num_training_steps=100,
        decay_type="linear",
    )

    assert factors(WarmupStableDecay(warmup=Steps(warmup), decay=Steps(decay)), 100) == pytest.approx(theirs)


@given(st.data(), st.integers(1, 300))
def test_every_schedule_rises_to_the_peak_and_comes_down_without_a_jump(data, steps):
    schedule = data.draw(schedules(steps))
    training = attrs.evolve(TRAINING, duration=Steps(steps), schedule=schedule)
    found, warmup = factors(schedule, steps), training.warmup_steps(LENGTH)
    peak = max(warmup - 1, 0)
    final = schedule.final.of_total if hasattr(schedule, "final") else None
    way_down = training.phase_steps(schedule.decay, LENGTH) if hasattr(schedule, "decay") else steps - 1 - peak
    # What the steepest step of the way down can lose.
    steepest = {
        Constant: lambda: 0,
        Linear: lambda: (1 - final) / way_down,
        Cosine: lambda: (1 - final) * min(math.pi / 2 / way_down, 1),
        InverseSquareRoot: lambda: 1 - math.sqrt((peak + 1) / (peak + 2)),
        # Without a step before it, the decay starts in the first step.
        WarmupStableDecay: lambda: (1 - final) / min(way_down, steps - 1),
    }[type(schedule)]

    assert all(0 <= factor <= 1 for factor in found)
    assert found[:warmup] == pytest.approx([(step + 1) / warmup for step in range(warmup)])
    if steps > 1:
        assert found[peak] == 1
        losses = [before - after for before, after in zip(found[peak:], found[peak + 1 :], strict=False)]
        assert all(-1e-12 <= loss <= steepest() + 1e-12 for loss in losses)
    if final is not None:
        assert found[-1] == final


@pytest.mark.slow
def test_sgd_is_torchs_sgd(tokens, tmp_path):
    training = attrs.evolve(TRAINING, optimizer=SGD(learning_rate=0.05, momentum=0.9, nesterov=True, weight_decay=0.5))
    result = trained(section(training=training), tokens, tmp_path)

    assert column(result, "loss") == pytest.approx(plain_losses(tokens, training), rel=1e-4)


TIED = attrs.evolve(NETWORK, tie_word_embeddings=True)
ONE_RANK = Parallelism(micro_batch_size=4)
ZERO = Parallelism(data=2, micro_batch_size=4, zero_stage=1)
PIPELINE = Parallelism(pipeline=2, micro_batch_size=2)
KINDS = {"norms": ("norm",), "biases": (), "embeddings": ("embed_tokens",)}
"""What a kind of weights is, in the names of transformers' Llama, which has no biases."""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("no_decay", "layout", "model", "precision", "tolerance"),
    [
        ((), ONE_RANK, NETWORK, "float32", 1e-4),
        (("norms", "biases"), ZERO, NETWORK, "float32", 1e-4),
        (("norms", "biases", "embeddings"), ONE_RANK, NETWORK, "float32", 1e-4),
        (("norms", "biases", "embeddings"), PIPELINE, TIED, "float32", 1e-4),
        (("embeddings",), ZERO, TIED, "bfloat16", 5e-3),
    ],
    ids=["all", "zero", "embeddings", "tied over a pipeline", "float32 copies under zero"],
)
def test_weight_decay_leaves_alone_what_no_decay_names(tokens, tmp_path, no_decay, layout, model, precision, tolerance):
    # So strong that each kind of weights changes the losses by far more than the tolerance.
    optimizer = AdamW(learning_rate=1e-3, weight_decay=30.0, no_decay=no_decay)
    training = attrs.evolve(TRAINING, optimizer=optimizer, precision=precision)
    spared = [part for kind in no_decay for part in KINDS[kind]]
    expected = plain_losses(tokens, training, model, decays=lambda name: not any(part in name for part in spared))

    result = trained(section(layout, network=model, training=training), tokens, tmp_path)

    assert column(result, "loss") == pytest.approx(expected, rel=tolerance)


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("model.decoder.0.pp_block.input_layernorm.weight", {"norms"}),
        ("model.final_layer_norm.pp_block.weight", {"norms"}),
        ("model.final_layer_norm.pp_block.bias", {"norms", "biases"}),
        ("model.decoder.0.pp_block.attn.qkv_proj.bias", {"biases"}),
        ("model.decoder.0.pp_block.attn.qkv_proj.weight", set()),
        ("model.token_position_embeddings.pp_block.token_embedding.weight", {"embeddings"}),
        ("model.lm_head.pp_block.weight", set()),
    ],
)
def test_a_weight_is_of_the_kinds_that_its_name_says(name, kinds):
    bootstrap.load("cpu")
    from llmrecipe.engines.nanotron.optimizer import is_left_alone

    assert {kind for kind in KINDS if is_left_alone(name, (kind,))} == kinds


@pytest.mark.slow
@pytest.mark.parametrize(
    ("layout", "model", "precision", "tolerance"),
    [
        (ONE_RANK, NETWORK, "float32", 1e-4),
        (ZERO, TIED, "float32", 1e-4),
        (Parallelism(tensor=2, micro_batch_size=4), NETWORK, "float32", 1e-4),
        (Parallelism(tensor=2, data=2, micro_batch_size=2, zero_stage=1), NETWORK, "bfloat16", 5e-3),
        (PIPELINE, TIED, "float32", 1e-4),
    ],
    ids=["one rank", "zero", "tensor", "tensor and zero with float32 copies", "pipeline"],
)
def test_muon_is_torchs_muon_on_transformers_matrices(tokens, tmp_path, layout, model, precision, tolerance):
    training = attrs.evolve(TRAINING, optimizer=Muon(learning_rate=2e-2, weight_decay=1.0), precision=precision)

    result = trained(section(layout, network=model, training=training), tokens, tmp_path)

    assert column(result, "loss") == pytest.approx(plain_losses(tokens, training, model), rel=tolerance)


@pytest.mark.slow
def test_muon_moves_an_encoder_as_torchs_muon_does(tmp_path):
    tokens = write_tokens(tmp_path / "tokens", masking=MASKING, train=20_000, heldout=2_000)
    network = Bert(hidden_size=64, num_layers=2, num_attention_heads=4, max_position_embeddings=LENGTH)
    training = attrs.evolve(TRAINING, optimizer=Muon(learning_rate=2e-2, weight_decay=1.0))
    objective = MaskedLM(sequence_length=LENGTH)
    expected = plain_losses(tokens, training, network, objective=objective)

    result = trained(attrs.evolve(section(network=network, training=training), objective=objective), tokens, tmp_path)

    assert column(result, "loss") == pytest.approx(expected, rel=1e-4)
