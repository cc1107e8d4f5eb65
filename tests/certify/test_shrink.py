"""A model shrunk for a proof: valid, small, and with all that could make its training inexact."""

import attrs
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from strategies import recipes
from tiny_recipe import BASE

from llmrecipe import (
    Bert,
    Fraction,
    Llama,
    Llama3RopeScaling,
    Machine,
    MaskedLM,
    Mistral,
    Parallelism,
    Qwen2,
    Qwen3,
    Recipe,
    Steps,
    Trained,
    WordPiece,
    evolve,
)
from llmrecipe.certify.layouts import in_words, other_layout
from llmrecipe.certify.proof import Proof
from llmrecipe.certify.shrink import LARGEST_VOCAB, SMALLEST_VOCAB, shrink, shrunk_machine
from llmrecipe.certify.tokens import Tokens
from llmrecipe.loader import load
from llmrecipe.recipe import checks
from llmrecipe.recipe.names import named_values
from llmrecipe.recipe.networks.decoder import Decoder
from llmrecipe.recipe.schedule import Constant, Cosine
from llmrecipe.recipe.schema import define

steps = st.integers(8, 200)
vocab_sizes = st.integers(SMALLEST_VOCAB, LARGEST_VOCAB)

DEGREES = ("data", "tensor", "pipeline")


@st.composite
def models(draw):
    """A model that a valid recipe trains."""
    found = [value for _, value in named_values(draw(recipes())) if isinstance(value, Trained)]
    assume(found)
    return draw(st.sampled_from(found))


def trained_by(name: str) -> Trained:
    """The model that one of our recipes trains."""
    return next(value for _, value in named_values(load(name)) if isinstance(value, Trained))


def violations(model: Trained):
    return checks.violations(Recipe(name="proof", models=(model,)))


def shrunk(**changes):
    return shrink(attrs.evolve(BASE, **changes), steps=20, vocab_size=300)


@given(models(), steps, vocab_sizes)
def test_any_valid_recipe_shrinks_to_valid_ones_under_both_layouts(model, steps, vocab_size):
    small = shrink(model, steps=steps, vocab_size=vocab_size)
    moved = attrs.evolve(small, parallelism=other_layout(small.parallelism, small.network))

    assert violations(small) == violations(moved) == []


@given(models(), vocab_sizes)
def test_what_is_left_is_small(model, vocab_size):
    small = shrink(model, steps=20, vocab_size=vocab_size)

    assert small.network.num_parameters(vocab_size) <= 1_000_000
    assert small.parallelism.world_size <= 8
    assert small.training.num_steps(small.objective.sequence_length) == 20
    assert small.training.global_batch_size * small.objective.sequence_length <= 8 * 64
    assert shrunk_machine(Machine(), 20).checkpoint_interval == 5


@given(models(), steps)
def test_what_could_make_a_training_inexact_is_kept(model, steps):
    small = shrink(model, steps=steps, vocab_size=320)
    old, new = model.network, small.network

    sizes = {"duration", "global_batch_size", "schedule", "validation_interval", "validation_sequences"}
    for field in attrs.fields(type(model.training)):
        if field.name not in sizes:
            assert getattr(small.training, field.name) == getattr(model.training, field.name)
    assert type(small.training.schedule) is type(model.training.schedule)
    assert getattr(small.training.schedule, "final", None) == getattr(model.training.schedule, "final", None)
    sizes = {"hidden_size", "num_layers", "num_attention_heads", "num_key_value_heads", "intermediate_size"}
    sizes |= {"make_vocab_size_divisible_by", "head_dim", "sliding_window", "local_attention"}
    if isinstance(old, Decoder):
        assert new.num_attention_heads * old.num_key_value_heads == old.num_attention_heads * new.num_key_value_heads
    else:
        # Each position has weights.
        sizes |= {"max_position_embeddings"}
    for name in attrs.fields_dict(type(old)).keys() - sizes:
        assert getattr(new, name) == getattr(old, name)
    for name in attrs.fields_dict(type(model.objective)).keys() - {"sequence_length", "masking"}:
        assert getattr(small.objective, name) == getattr(model.objective, name)
    assert type(getattr(small.objective, "masking", None)) is type(getattr(model.objective, "masking", None))
    for name in DEGREES:
        assert (getattr(small.parallelism, name) > 1) == (getattr(model.parallelism, name) > 1)
    for name in ("zero_stage", "tensor_parallel_mode", "pipeline_schedule"):
        assert getattr(small.parallelism, name) == getattr(model.parallelism, name)


@given(models(), vocab_sizes)
def test_windows_and_heads_of_a_width_of_their_own_stay_what_they_are(model, vocab_size):
    small = shrink(model, steps=20, vocab_size=vocab_size)
    old, new, length = model.network, small.network, small.objective.sequence_length

    assume(length > 2)
    for name in ("sliding_window", "local_attention"):
        window = getattr(old, name, None)
        assert getattr(new, name, None) == (None if window is None else min(window, max(length // 4, 2)))
    if getattr(old, "local_attention", None) is not None and old.global_attn_every_n_layers > 1:
        assert {new.is_local(layer) for layer in range(new.num_layers)} == {False, True}
    head_dim = getattr(old, "head_dim", None)
    assert getattr(new, "head_dim", None) == (None if head_dim is None else min(head_dim, 24))


@pytest.mark.parametrize(
    ("network", "expected"),
    [
        (
            Mistral(hidden_size=4096, num_layers=32, num_attention_heads=32, num_key_value_heads=8, sliding_window=64),
            {"sliding_window": 8, "head_size": 8, "num_attention_heads": 8},
        ),
        (
            Qwen3(
                hidden_size=1024,
                num_layers=28,
                num_attention_heads=16,
                num_key_value_heads=8,
                head_dim=128,
                rope_scaling=Llama3RopeScaling(factor=32.0),
            ),
            {"head_dim": 24, "num_attention_heads": 4, "rope_scaling": Llama3RopeScaling(factor=32.0)},
        ),
        (
            Qwen2(hidden_size=896, num_layers=24, num_attention_heads=14, num_key_value_heads=2),
            {"head_dim": None, "num_attention_heads": 14, "has_query_key_value_biases": True},
        ),
    ],
    ids=["mistral", "qwen3", "qwen2"],
)
def test_published_shapes_shrink_to_small_ones_of_their_kind(network, expected):
    small = shrunk(start=network)

    assert {name: getattr(small.network, name) for name in expected} == expected
    assert small.network.num_parameters(300) < 300_000
    assert violations(small) == []


@pytest.mark.parametrize(
    "network",
    [
        # Of as many heads as Qwen2 0.5B and 7B have, and of the width of Qwen3's.
        Qwen2(hidden_size=896, num_layers=2, num_attention_heads=14, num_key_value_heads=2, intermediate_size=4864),
        Qwen2(hidden_size=3584, num_layers=2, num_attention_heads=28, num_key_value_heads=4, intermediate_size=18944),
        Qwen3(hidden_size=1024, num_layers=2, num_attention_heads=16, num_key_value_heads=8, head_dim=128),
        Llama(hidden_size=64, num_layers=2, num_attention_heads=1, num_key_value_heads=1, intermediate_size=48),
        Llama(hidden_size=96, num_layers=2, num_attention_heads=12, num_key_value_heads=4, head_dim=40),
        Bert(hidden_size=96, num_layers=2, num_attention_heads=12),
    ],
    ids=lambda network: f"{type(network).__name__}-{network.num_attention_heads}",
)
@pytest.mark.parametrize("layout", [Parallelism(), Parallelism(data=2), Parallelism(tensor=1, pipeline=2)])
def test_what_can_be_multiplied_in_float8_still_can(network, layout):
    changes = {"start": network, "training": attrs.evolve(BASE.training, precision="float8"), "parallelism": layout}
    if network.reads_both_sides:
        changes |= {"objective": MaskedLM(sequence_length=32), "tokenizer": WordPiece(vocab_size=300)}
    assert violations(attrs.evolve(BASE, **changes)) == []

    small = shrunk(**changes)
    moved = attrs.evolve(small, parallelism=other_layout(small.parallelism, small.network))

    assert violations(small) == violations(moved) == []


def test_a_model_that_starts_from_another_starts_from_the_first_weights_of_its_network():
    further = evolve(BASE, name="further", start=BASE, tokenizer=None)

    assert shrink(further, steps=20, vocab_size=300) == evolve(shrunk(), name="further")


@pytest.mark.parametrize(
    ("warmup", "expected"),
    [
        (Steps(0), 0),
        (Steps(1), 1),
        (Steps(500), 10),
        (Steps(999), 19),
        (Fraction(0.0), 0),
        (Fraction(0.001), 1),
        (Fraction(0.25), 5),
        (Fraction(0.995), 19),
    ],
)
def test_the_warmup_keeps_its_share_of_the_training(warmup, expected):
    training = attrs.evolve(BASE.training, duration=Steps(1000), schedule=Cosine(warmup=warmup, final=Fraction(0.3)))

    assert shrunk(training=training).training.schedule == Cosine(warmup=Steps(expected), final=Fraction(0.3))


def test_a_field_of_the_training_that_is_not_known_here_survives():
    @define("newer_training")
    class Newer(type(BASE.training)):
        not_known_here: float

    fields = {field.name: getattr(BASE.training, field.name) for field in attrs.fields(type(BASE.training))}

    assert shrunk(training=Newer(**fields, not_known_here=0.1)).training.not_known_here == 0.1


@pytest.mark.parametrize(
    ("parallelism", "expected"),
    [
        (Parallelism(), "tensor 2"),
        (Parallelism(data=2), "tensor 2 × pipeline 2"),
        (Parallelism(data=2, zero_stage=1), "tensor 2 × pipeline 2"),
        (Parallelism(tensor=2), "data 2, ZeRO 1"),
        (Parallelism(pipeline=2), "data 2, ZeRO 1"),
        (Parallelism(data=2, tensor=2, pipeline=2), "data 2, ZeRO 1"),
        (Parallelism(data=2, tensor=2, pipeline=2, zero_stage=1), "data 2"),
    ],
)
def test_the_other_layout_is_of_another_kind(parallelism, expected):
    assert in_words(other_layout(parallelism, BASE.network)) == expected


def test_a_single_key_value_head_is_never_shared():
    model = attrs.evolve(BASE.network, num_key_value_heads=1)

    assert in_words(other_layout(Parallelism(), model)) == "data 2"
    assert in_words(other_layout(Parallelism(data=2), model)) == "pipeline 2"


def test_layouts_are_named_by_what_is_spread():
    assert in_words(Parallelism(micro_batch_size=2, zero_stage=1)) == "one rank"
    assert in_words(Parallelism(data=2, tensor=2, pipeline=2, zero_stage=1)) == (
        "data 2 × tensor 2 × pipeline 2, ZeRO 1"
    )


@pytest.mark.parametrize(("name", "ranks"), [("quickstart", 2), ("llama_7b", 8)])
def test_our_own_recipes_shrink(name, ranks):
    small = shrink(trained_by(name), steps=20, vocab_size=320)

    assert violations(small) == []
    assert small.parallelism.world_size == ranks


def test_llama_keeps_its_proportions():
    small = shrink(trained_by("llama_7b"), steps=20, vocab_size=320)

    assert small.network == Llama(
        hidden_size=64,
        num_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        intermediate_size=176,
        max_position_embeddings=4096,
    )
    assert small.training.schedule.warmup == Steps(1)
    assert small.training.optimizer.eps == 1e-5


@pytest.mark.parametrize(("gpus", "device"), [(0, "cpu"), (3, "cpu"), (4, "auto")])
def test_ranks_without_a_gpu_each_run_on_the_cpu(monkeypatch, tmp_path, gpus, device):
    monkeypatch.setattr("llmrecipe.hardware.num_gpus", lambda: gpus)
    model = evolve(BASE, parallelism=Parallelism(data=2), training__schedule=Constant())
    proof = Proof.of(model, 20, Tokens(inputs={"tokens": tmp_path}, vocab_size=320, origin=""), Machine())

    assert proof.machine.device == device
