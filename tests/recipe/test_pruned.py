"""What can be left out of a model, what it is called, and what is refused before anything runs."""

import attrs
import pytest
from strategies import SMALL, SMALL_MODEL

from llmrecipe import (
    Bert,
    Distilled,
    Llama,
    MaskedLM,
    Mistral,
    PretrainedModel,
    Pruned,
    Quantized,
    WordPiece,
    evolve,
    measure,
    prune,
    scheme,
)
from llmrecipe.plan.planner import plan
from llmrecipe.recipe import checks
from llmrecipe.recipe.schema import FieldError
from llmrecipe.sections import PruneSection

HALF = prune.SparseGPT(sparsity=0.5)
ENCODER = evolve(
    SMALL_MODEL,
    start=Bert(hidden_size=64, num_layers=2, num_attention_heads=4),
    tokenizer=WordPiece(vocab_size=512),
    objective=MaskedLM(sequence_length=32),
)


def found(*models):
    """What is wrong with these models, by path below the first."""
    with attrs.validators.disabled():
        recipe = evolve(SMALL, models=models, measures=(measure.Perplexity(text=SMALL_MODEL.text),))
    return {each.path.removeprefix("small.models[0]."): each.reason for each in checks.violations(recipe)}


def pruned(method, model=SMALL_MODEL, **fields):
    with attrs.validators.disabled():
        return Pruned(model=model, method=method, **fields)


def unchecked(cls, **fields):
    with attrs.validators.disabled():
        return cls(**fields)


@pytest.mark.parametrize(
    ("method", "name"),
    [
        (HALF, "small-model-sparse50"),
        (prune.Wanda(sparsity=0.125), "small-model-sparse12p5"),
        (prune.Magnitude(sparsity=prune.Pattern(keep=2, of=4)), "small-model-2of4"),
        (prune.Wanda(sparsity=prune.Measured(share=0.5)), "small-model-sparse50-measured"),
        (prune.Magnitude(sparsity=prune.PerLayer(shares=(0.25, 0.0))), "small-model-sparse12p5-per-layer"),
        (prune.Layers(num_layers=1), "small-model-1layers"),
        (prune.Width(intermediate_size=64), "small-model-mlp64"),
        (prune.Width(num_key_value_heads=1), "small-model-kv1"),
        (prune.Width(intermediate_size=64, num_key_value_heads=1), "small-model-mlp64-kv1"),
        (prune.Width(hidden_size=48), "small-model-hidden48"),
        (prune.Width(hidden_size=2, intermediate_size=64, num_key_value_heads=1), "small-model-hidden2-mlp64-kv1"),
    ],
)
def test_a_pruned_model_is_called_by_what_is_left_out(method, name):
    assert Pruned(model=SMALL_MODEL, method=method).name == name
    assert found(Pruned(model=SMALL_MODEL, method=method)) == {}


@pytest.mark.parametrize("share", [0.0, 1.0, 50.0, -0.1, 100.0])
def test_a_share_of_none_of_all_or_in_percent_is_refused(share):
    reason = found(pruned(unchecked(prune.Wanda, sparsity=share)))["method.sparsity"]
    assert "must be more than 0 and less than 1" in reason
    assert ("50 % are 0.5" in reason) == (share == 50)
    with pytest.raises(FieldError):
        prune.Wanda(sparsity=share)


@pytest.mark.parametrize(
    ("pattern", "path", "says"),
    [
        ({"keep": 4, "of": 4}, "keep", "4 of 4 are all there are, so nothing is pruned; keep fewer"),
        ({"keep": 5, "of": 4}, "keep", "5 of 4"),
        ({"keep": 0, "of": 4}, "keep", "must be between 1"),
        ({"keep": 1, "of": 1}, "of", "must be between 2"),
        ({"keep": 1, "of": 3}, "of", "3 does not divide hidden_size = 64 (q_proj"),
    ],
)
def test_a_pattern_that_keeps_all_or_none_or_does_not_fit_is_refused(pattern, path, says):
    word = unchecked(prune.Pattern, **pattern)
    assert says in found(pruned(unchecked(prune.Wanda, sparsity=word)))[f"method.sparsity.{path}"]


@pytest.mark.parametrize("share", [0.0, 1.0, 50.0])
def test_the_mean_that_measured_shares_have_is_a_share(share):
    reason = found(pruned(prune.Wanda(sparsity=unchecked(prune.Measured, share=share))))["method.sparsity.share"]
    assert "must be more than 0 and less than 1" in reason


@pytest.mark.parametrize(
    ("shares", "path", "says"),
    [
        ((0.5, 1.0), "shares", "must be at least 0 and less than 1 each, got 1.0 for layer 1, counted from 0"),
        ((50.0, 0.5), "shares", "got 50.0 for layer 0"),
        ((0.5, -0.1), "shares", "got -0.1 for layer 1"),
        ((0.0, 0.0), "shares", "must be more than 0 for some layer, got (0.0, 0.0)"),
        ((), "shares", "must be more than 0 for some layer, got ()"),
        ([0.5, 0.5], "shares", "must be a tuple of a finite float, got [0.5, 0.5] (list); write (…) in place of […]"),
        ((0.5,), "shares", "has 1, and the model has 2 layers; give one for each, 0 for those that stay as they are"),
        ((0.5, 0.5, 0.5), "shares", "has 3, and the model has 2 layers"),
        ((0.5, 0.01), "shares[1]", "0.01 is less than one weight of a row of hidden_size = 64 (q_proj, "),
    ],
)
def test_shares_that_no_layer_can_have_or_that_are_not_one_a_layer_are_refused(shares, path, says):
    word = unchecked(prune.PerLayer, shares=shares)
    assert says in found(pruned(unchecked(prune.Magnitude, sparsity=word)))[f"method.sparsity.{path}"]


def test_a_quantized_model_is_not_pruned_and_a_pruned_one_is_quantized():
    small = Quantized(model=SMALL_MODEL, scheme=scheme.W8A16())
    assert found(Pruned(model=small, method=HALF)) == {
        "model": "small-model-w8a16 is Quantized: pruning would undo its rounding; prune small-model, and quantize "
        "what comes of it, which keeps the zeros"
    }
    assert found(Quantized(model=Pruned(model=SMALL_MODEL, method=HALF), scheme=scheme.W8A16())) == {}


def test_a_sparse_model_is_pruned_again_only_to_more_zeros():
    half = Pruned(model=SMALL_MODEL, method=HALF)
    for share, works in ((0.3, False), (0.5, False), (0.6, True)):
        reasons = found(Pruned(model=half, method=prune.Magnitude(sparsity=share)))
        assert reasons.get("method.sparsity", "").endswith("" if works else "use more than 0.5, or prune small-model")
        assert bool(reasons) != works
    pattern = prune.Wanda(sparsity=prune.Pattern(keep=2, of=4))
    assert found(Pruned(model=half, method=pattern)) == {}
    assert "method.sparsity" in found(Pruned(model=Pruned(model=SMALL_MODEL, method=pattern), method=pattern))


@pytest.mark.parametrize(
    ("before", "shares", "path"),
    [
        (0.5, (0.5, 0.6), "method.sparsity.shares[0]"),
        (0.5, (0.0, 0.6), None),
        (prune.PerLayer(shares=(0.5, 0.0)), (0.0, 0.5), None),
        (prune.PerLayer(shares=(0.6, 0.2)), (0.7, 0.1), "method.sparsity.shares[1]"),
        (prune.Pattern(keep=1, of=4), (0.7, 0.8), "method.sparsity.shares[0]"),
        # Which of its layers have how many zeros isn't known yet.
        (prune.Measured(share=0.5), (0.5, 0.6), None),
    ],
)
def test_a_layer_of_a_sparse_model_gets_more_zeros_or_stays_as_it_is(before, shares, path):
    once = Pruned(model=SMALL_MODEL, method=prune.SparseGPT(sparsity=before))
    reasons = found(Pruned(model=once, method=prune.Magnitude(sparsity=prune.PerLayer(shares=shares))))
    assert list(reasons) == ([path] if path else [])
    assert all("zeros count; use more, or 0 to leave it as it is" in reason for reason in reasons.values())


@pytest.mark.parametrize("before", [prune.PerLayer(shares=(0.6, 0.2)), prune.Measured(share=0.4)])
@pytest.mark.parametrize(
    ("asked", "enough"),
    # Of each layer, of which the one has fewer zeros, or may have; and of all in the mean.
    [(0.2, "0.2"), (0.21, None), (0.4, None), (prune.Measured(share=0.4), "0.4"), (prune.Measured(share=0.41), None)],
)
def test_uneven_zeros_are_enough_where_each_layer_has_them_or_where_their_mean_is_asked_for(before, asked, enough):
    once = Pruned(model=SMALL_MODEL, method=prune.SparseGPT(sparsity=before))
    reasons = found(Pruned(model=once, method=prune.Magnitude(sparsity=asked)))
    assert list(reasons) == ([] if enough is None else ["method.sparsity"])
    assert all(f"use more than {enough}, or prune small-model" in reason for reason in reasons.values())


def test_shares_of_layers_that_may_be_gone_are_no_hindrance():
    three = evolve(SMALL_MODEL, start__num_layers=3)
    once = Pruned(model=three, method=prune.Wanda(sparsity=prune.PerLayer(shares=(0.6, 0.2, 0.6))))
    short = Pruned(model=once, method=prune.Layers(num_layers=2))
    assert found(Pruned(model=short, method=prune.Wanda(sparsity=prune.PerLayer(shares=(0.5, 0.5))))) == {}


def test_training_that_would_undo_the_zeros_is_refused():
    half = Pruned(model=SMALL_MODEL, method=HALF)
    further = evolve(SMALL_MODEL, name="further", start=half, tokenizer=None)
    assert found(further) == {
        "start": "small-model-sparse50 is sparse, and training moves zeros as it does all weights, so what was pruned "
        "would be undone; start from small-model, and prune what comes of it"
    }


def test_only_methods_that_read_a_text_need_one():
    theirs = PretrainedModel(
        name="theirs", path="models/theirs", network=SMALL_MODEL.network, objective=SMALL_MODEL.objective
    )
    assert "theirs was not trained here; give it" in found(Pruned(model=theirs, method=HALF))["text"]
    assert found(Pruned(model=theirs, method=HALF, text=SMALL_MODEL.text)) == {}
    measured = prune.Magnitude(sparsity=prune.Measured(share=0.5))
    assert list(found(Pruned(model=theirs, method=measured))) == ["text"]
    assert found(Pruned(model=theirs, method=measured, text=SMALL_MODEL.text)) == {}
    smallest = prune.Magnitude(sparsity=0.5)
    assert found(Pruned(model=theirs, method=smallest)) == {}
    assert (
        "Magnitude reads none; leave it out"
        in found(Pruned(model=theirs, method=smallest, text=SMALL_MODEL.text))["text"]
    )


def test_a_share_of_less_than_a_weight_in_a_row_is_refused():
    assert found(Pruned(model=SMALL_MODEL, method=prune.Wanda(sparsity=0.01))) == {
        "method.sparsity": "0.01 is less than one weight of a row of hidden_size = 64 (q_proj, k_proj, v_proj, o_proj, "
        "gate_proj, up_proj); use at least 0.016"
    }
    assert found(Pruned(model=SMALL_MODEL, method=prune.Wanda(sparsity=0.016))) == {}


def test_what_is_no_method_is_refused_as_such():
    reason = found(pruned(3))["method"]
    assert reason.startswith("must be ")
    assert "SparseGPT" in reason


def test_an_encoder_is_made_sparse_as_a_decoder_is():
    assert found(Pruned(model=ENCODER, method=prune.Wanda(sparsity=prune.Pattern(keep=2, of=4)))) == {}


def test_the_plan_gives_a_text_to_those_that_read_one():
    def stages(method):
        recipe = evolve(SMALL, models=(Pruned(model=SMALL_MODEL, method=method, seed=3),), measures=())
        return {stage.name: stage for stage in plan([recipe]).stages}

    with_text = stages(HALF)["small-model-sparse50-prune"]
    assert with_text.section == PruneSection(method=HALF, calibration_samples=128, seed=3)
    assert set(with_text.inputs) == {"model", "tokens"}
    without = stages(prune.Magnitude(sparsity=0.5))["small-model-sparse50-prune"]
    assert set(without.inputs) == {"model"}


def test_only_what_makes_zeros_makes_a_model_sparse():
    half = Pruned(model=SMALL_MODEL, method=HALF)
    assert [each.is_sparse for each in (SMALL_MODEL, half, Quantized(model=half, scheme=scheme.FP8()))] == [
        False,
        True,
        True,
    ]


def test_a_width_that_a_pattern_does_not_divide_is_named():
    wide = evolve(
        SMALL_MODEL,
        start=Llama(hidden_size=64, num_layers=2, num_attention_heads=4, num_key_value_heads=2, intermediate_size=100),
    )
    method = prune.Wanda(sparsity=prune.Pattern(keep=4, of=8))
    assert found(Pruned(model=wide, method=method)) == {
        "method.sparsity.of": "8 does not divide intermediate_size = 100 (down_proj); use 2 or 4"
    }


HEADS = evolve(SMALL_MODEL, start__num_attention_heads=8, start__num_key_value_heads=8)
NARROW = evolve(HEADS, start__hidden_size=8, start__head_dim=8)


@pytest.mark.parametrize(
    ("model", "method", "path", "says"),
    [
        (SMALL_MODEL, prune.Layers(num_layers=2), "num_layers", "num_layers = 2; use at most 1"),
        (evolve(SMALL_MODEL, start__num_layers=1), prune.Layers(num_layers=1), "num_layers", "none can be left out"),
        (SMALL_MODEL, prune.Width(intermediate_size=192), "intermediate_size", "= 192; use at most 191"),
        (SMALL_MODEL, prune.Width(num_key_value_heads=5), "num_key_value_heads", "= 2; use at most 1"),
        (HEADS, prune.Width(num_key_value_heads=3), "num_key_value_heads", "don't divide hidden_size = 64"),
        (SMALL_MODEL, prune.Width(hidden_size=64), "hidden_size", "hidden_size = 64; use at most 63"),
        (SMALL_MODEL, prune.Width(hidden_size=61), "hidden_size", "61 is not a multiple of the 4 query heads"),
        (SMALL_MODEL, prune.Width(hidden_size=61), "hidden_size", "as transformers' Llama needs; use 60"),
        (SMALL_MODEL, prune.Width(hidden_size=33), "hidden_size", "use 32 or 36"),
        (HEADS, prune.Width(hidden_size=40, num_key_value_heads=3), "hidden_size", "3 query heads that are left"),
        (HEADS, prune.Width(hidden_size=40, num_key_value_heads=3), "hidden_size", "use 39 or 42"),
        (
            NARROW,
            prune.Width(hidden_size=5),
            "hidden_size",
            "query heads that are left, as transformers' Llama needs; leave",
        ),
    ],
)
def test_sizes_that_leave_all_or_do_not_fit_are_refused_with_what_would(model, method, path, says):
    reasons = found(Pruned(model=model, method=method))
    assert list(reasons) == [f"method.{path}"]
    assert says in reasons[f"method.{path}"]


def test_a_width_of_everything_is_refused():
    assert (
        "leaves everything; give it hidden_size, intermediate_size or num_key_value_heads"
        in found(pruned(prune.Width()))["method"]
    )


def test_fewer_heads_fit_a_width_that_is_asked_for_with_them():
    assert found(Pruned(model=HEADS, method=prune.Width(hidden_size=39, num_key_value_heads=3))) == {}
    mistral = evolve(
        SMALL_MODEL, start=Mistral(hidden_size=64, num_layers=2, num_attention_heads=4, num_key_value_heads=2)
    )
    assert found(Pruned(model=mistral, method=prune.Width(hidden_size=61))) == {}


def test_two_channels_are_the_fewest():
    reasons = found(pruned(unchecked(prune.Width, hidden_size=1)))
    assert list(reasons) == ["method.hidden_size"]
    assert "must be between 2" in reasons["method.hidden_size"]
    least = evolve(SMALL_MODEL, start=Llama(hidden_size=2, num_layers=1, num_attention_heads=1, num_key_value_heads=1))
    assert "of which none can be left out" in found(pruned(prune.Width(hidden_size=2), least))["method.hidden_size"]


def test_a_network_that_can_not_be_is_refused_as_such():
    with attrs.validators.disabled():
        model = evolve(SMALL_MODEL, start__num_attention_heads=2, start__num_key_value_heads=4)
    assert list(found(pruned(prune.Width(intermediate_size=64), model))) == ["model.start.num_key_value_heads"]


@pytest.mark.parametrize(
    "method",
    [prune.Layers(num_layers=1), prune.Width(intermediate_size=64), prune.Width(hidden_size=48)],
)
def test_an_encoder_is_made_sparse_and_not_smaller(method):
    assert "is for decoders, and Bert is an encoder" in found(Pruned(model=ENCODER, method=method))["method"]


def test_what_is_made_from_a_smaller_model_knows_its_network_without_its_weights():
    narrow = Pruned(model=HEADS, method=prune.Width(intermediate_size=100, num_key_value_heads=2))
    short = Pruned(model=narrow, method=prune.Layers(num_layers=1))
    expected = evolve(
        HEADS.network, num_layers=1, intermediate_size=100, num_attention_heads=2, num_key_value_heads=2, head_dim=8
    )
    assert short.network == expected
    rounded = Quantized(model=short, scheme=scheme.W4A16(group_size=32))
    assert found(rounded) == {
        "scheme.group_size": "W4A16's group of 32 does not divide intermediate_size = 100 (down_proj) and "
        "num_attention_heads × head_dim = 2 × 8 (o_proj); use 4"
    }
    further = evolve(SMALL_MODEL, name="further", start=short, tokenizer=None)
    assert found(further) == {}
    three = evolve(further, parallelism__tensor=4, parallelism__data=1, training__global_batch_size=4)
    assert "parallelism.tensor" in found(three)


def test_of_fewer_channels_all_else_keeps_its_width():
    wide = evolve(SMALL_MODEL, start=Llama(hidden_size=64, num_layers=2, num_attention_heads=4, num_key_value_heads=2))
    narrow = Pruned(model=wide, method=prune.Width(hidden_size=40))
    assert narrow.network == evolve(wide.network, hidden_size=40, head_dim=16, intermediate_size=192)
    assert found(Quantized(model=narrow, scheme=scheme.W4A16(group_size=32))) == {
        "scheme.group_size": "W4A16's group of 32 does not divide hidden_size = 40 (q_proj, k_proj, v_proj, gate_proj, "
        "up_proj); use 8"
    }
    again = Pruned(model=narrow, method=prune.Width(hidden_size=20, num_key_value_heads=1))
    assert again.network == evolve(
        narrow.network, hidden_size=20, num_attention_heads=2, num_key_value_heads=1, head_dim=16
    )
    sparse = Pruned(model=Pruned(model=wide, method=HALF), method=prune.Width(hidden_size=40))
    assert sparse.is_sparse
    taught = Distilled(name="taught", student=sparse, teacher=wide, training=SMALL_MODEL.training)
    assert found(sparse, again, taught) == {}


def test_the_last_layers_are_left_out_without_a_text():
    theirs = PretrainedModel(
        name="theirs", path="models/theirs", network=SMALL_MODEL.network, objective=SMALL_MODEL.objective
    )
    assert found(Pruned(model=theirs, method=prune.Layers(num_layers=1, left_out="last"))) == {}
    assert list(found(Pruned(model=theirs, method=prune.Layers(num_layers=1)))) == ["text"]


def test_what_is_left_of_a_sparse_model_is_sparse():
    half = Pruned(model=SMALL_MODEL, method=HALF)
    assert Pruned(model=half, method=prune.Layers(num_layers=1)).is_sparse
    assert not Pruned(model=SMALL_MODEL, method=prune.Layers(num_layers=1)).is_sparse


def test_rotations_would_mix_zeros_with_the_rest():
    sparse, smaller = (
        Pruned(model=SMALL_MODEL, method=HALF),
        Pruned(model=SMALL_MODEL, method=prune.Width(intermediate_size=64)),
    )
    assert found(Quantized(model=smaller, scheme=scheme.W8A16(), rotate=True)) == {}
    assert found(Quantized(model=sparse, scheme=scheme.W8A16(), rotate=True)) == {
        "rotate": "True, and small-model-sparse50 has zeros, which rotations mix with the rest; leave it out"
    }
