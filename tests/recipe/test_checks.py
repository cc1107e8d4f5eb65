import itertools
import math
import re
from pathlib import Path

import attrs
import pytest
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st
from strategies import SMALL, SMALL_MODEL, filled_by_nanotron, recipe_sets, recipes, small, trained_models

from llmrecipe import (
    Bert,
    ByteLevelBPE,
    CausalLM,
    Corpus,
    FillInTheMiddle,
    Fraction,
    Llama,
    MaskedLM,
    Mistral,
    Mixture,
    ModernBert,
    MultiMaskLM,
    Parallelism,
    Part,
    PretrainedTokenizer,
    Pruned,
    Quantized,
    Recipe,
    Steps,
    Tokens,
    Trained,
    Unigram,
    WordPiece,
    augment,
    clean,
    evolve,
    masking,
    measure,
    optimizer,
    preflight,
    prune,
    schedule,
    scheme,
    source,
)
from llmrecipe.recipe import checks, names
from llmrecipe.recipe.kinds import Model
from llmrecipe.recipe.schema import Word, define, matches


def changed(value, **changes):
    """`value`, changed as the loader would let a user change it: unchecked."""
    with attrs.validators.disabled():
        return evolve(value, **changes)


MASKED = evolve(
    SMALL_MODEL,
    start=Bert(hidden_size=64, num_layers=2, num_attention_heads=4),
    tokenizer=WordPiece(vocab_size=512),
    objective=MultiMaskLM(sequence_length=32),
)
REARRANGED = evolve(
    SMALL_MODEL,
    tokenizer__special_tokens=FillInTheMiddle().tokens,
    objective__fill_in_the_middle=FillInTheMiddle(),
)
PARTS = "objective.fill_in_the_middle"
MODERN = evolve(MASKED, start=ModernBert(hidden_size=64, num_layers=2, num_attention_heads=4))


def found(value):
    """What is wrong with a recipe, or with a model that is alone in one, by path below it."""
    recipe = value if isinstance(value, Recipe) else changed(SMALL, models=(value,), measures=())
    violations = checks.violations(recipe)
    assert len({(violation.path, violation.reason) for violation in violations}) == len(violations)
    root = f"{recipe.name}." if value is recipe else f"{recipe.name}.models[0]."
    return {violation.path.removeprefix(root): violation.reason for violation in violations}


def quantized(model, how, **changes):
    """`model` with a scheme, and the model itself, measured."""
    models = (model, changed(Quantized(model=model, scheme=how), **changes))
    return changed(SMALL, models=models, measures=(measure.Perplexity(),))


def proposals(reason):
    """The numbers after the last `use`."""
    return list(map(int, re.findall(r"\d+", reason.rpartition("use ")[2])))


@given(recipes())
def test_a_recipe_that_can_work_has_no_violations(recipe):
    assert checks.violations(recipe) == []


@settings(max_examples=25)
@given(recipe_sets())
def test_recipes_that_share_values_have_no_violations(recipes):
    assert [violation for recipe in recipes for violation in checks.violations(recipe)] == []


def test_the_message_of_a_tensor_degree_is_the_one_that_is_promised():
    recipe = evolve(small(parallelism__tensor=3, start__num_attention_heads=8), name="quickstart")
    assert str(checks.violations(recipe)[0]) == (
        "quickstart.models[0].parallelism.tensor: 3 does not divide num_attention_heads = 8; use 1, 2, 4 or 8"
    )


def test_a_group_that_does_not_fit_names_the_layers_and_proposes_one_that_fits():
    wide = Llama(hidden_size=576, num_layers=2, num_attention_heads=9, num_key_value_heads=3, intermediate_size=1536)
    assert found(quantized(evolve(SMALL_MODEL, start=wide), scheme.W4A16())) == {
        "models[1].scheme.group_size": "W4A16's group of 128 does not divide hidden_size = 576 (q_proj, k_proj, "
        "v_proj, o_proj, gate_proj, up_proj); use 64"
    }


def test_overrides_that_do_nothing_or_cannot_be_are_refused_with_what_would_work():
    four, model = scheme.W4A16(group_size=32), evolve(SMALL_MODEL, start__intermediate_size=160)

    def of(*overrides: tuple[str, scheme.Scheme | None], rest: scheme.Scheme = four) -> dict[str, str]:
        words = tuple(scheme.Override(layers=layers, scheme=given) for layers, given in overrides)
        return found(quantized(model, rest, overrides=words))

    assert of(("v_proj", scheme.W8A16()), ("layers.0.*", None)) == {}
    assert of(("w_proj", None)) == {
        "models[1].overrides[0].layers": "'w_proj' matches no layer that is quantized; the first is "
        "model.layers.0.self_attn.q_proj, and names end in q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, "
        "down_proj"
    }
    # A name ends after a dot, and the output layer is never quantized.
    assert set(of(("proj", None), ("lm_head", None))) == {f"models[1].overrides[{index}].layers" for index in (0, 1)}
    assert of(("self_attn.*", None), ("v_proj", scheme.W8A16())) == {
        "models[1].overrides[1].layers": "'v_proj' is left no layer by overrides[0], which comes first; put it before"
    }
    assert of(("*", scheme.W8A16())) == {
        "models[1].overrides": "leave no layer to W4A16, the scheme of the rest; override fewer",
    }
    assert of(("down_proj", scheme.W3A16(group_size=48))) == {
        "models[1].overrides[0].scheme.group_size": "W3A16's group of 48 does not divide intermediate_size = 160 "
        "(down_proj); use 32"
    }
    # What is overridden need not fit the scheme.
    wide = scheme.W4A16(group_size=64)
    assert set(of(rest=wide)) == {"models[1].scheme.group_size"}
    assert of(("down_proj", scheme.W8A16()), rest=wide) == {}
    assert of(("v_proj", scheme.FP8())) == {
        "models[1].overrides[0].scheme": "FP8 is rounded by RoundToNearest(), and the rest by "
        "GPTQ(dampening_frac=0.01, activation_order=True); give both the same rounding"
    }
    assert of(("v_proj", scheme.FP8(rounding=scheme.GPTQ()))) == {}
    other = scheme.W8A16(rounding=scheme.GPTQ(dampening_frac=0.1))
    assert of(("v_proj", other))["models[1].overrides[0].scheme"].endswith("; give both the same rounding")
    assert of(("v_proj", scheme.W8A8())) == {
        "models[1].overrides[0].scheme": "W8A8 evens out the activations of all layers; make it the scheme, and "
        "override those it isn't for, or give it smoothing_strength=None"
    }
    assert of(("v_proj", scheme.W8A8(smoothing_strength=None))) == {}
    # SmoothQuant would go by the strength of one of the two alone.
    assert set(of(("v_proj", scheme.W8A8(smoothing_strength=0.5)), rest=scheme.W8A8())) == {
        "models[1].overrides[0].scheme"
    }
    assert of(("v_proj", four), rest=scheme.W8A8()) == {}
    assert of(("v_proj", scheme.FP8()), rest=scheme.W4A16(group_size=32, rounding=scheme.RoundToNearest())) == {}


def test_errors_of_layers_are_measured_of_quantized_models_alone():
    asked = {"measures": (measure.Perplexity(), measure.LayerErrors())}
    assert checks.violations(evolve(SMALL, **asked)) == []
    # Where activations are evened out or rotated, the rest of the network has changed with a layer.
    schemes = (scheme.W8A8(), scheme.W4A16(group_size=32, rounding=scheme.AWQ()))
    smoothed = [Quantized(model=SMALL_MODEL, scheme=each) for each in schemes]
    rotated = Quantized(name="rotated", model=SMALL_MODEL, scheme=scheme.W8A16(), rotate=True)
    for models in ((SMALL_MODEL,), (SMALL_MODEL, *smoothed, rotated)):
        (wrong,) = checks.violations(evolve(SMALL, models=models, **asked))
        assert wrong.path == "small.measures[1]"
        assert wrong.reason == (
            "LayerErrors compares models layer by layer that are Quantized, and whose activations are neither evened "
            "out nor rotated, and there is none; remove it, or add one"
        )
    even = Quantized(model=SMALL_MODEL, scheme=scheme.W8A8(smoothing_strength=None))
    assert checks.violations(evolve(SMALL, models=(SMALL_MODEL, even), **asked)) == []


def test_a_scheme_of_ones_own_that_says_nothing_of_rounding_is_rounded_to_nearest():
    @define("odd")
    class Odd(scheme.Scheme):
        """One bit."""

    def of(override: scheme.Scheme, rest: scheme.Scheme) -> list[str]:
        words = (scheme.Override(layers="v_proj", scheme=override),)
        return list(found(quantized(SMALL_MODEL, rest, overrides=words)).values())

    assert of(Odd(), scheme.FP8()) == of(scheme.FP8(), Odd()) == []
    (reason,) = of(Odd(), scheme.W8A16())
    assert reason.endswith("; give the scheme rounding=scheme.RoundToNearest()")
    (reason,) = of(scheme.W8A16(), Odd())
    assert reason.endswith("; give it rounding=scheme.RoundToNearest()")


def test_layers_that_share_a_factor_in_nvfp4_have_it_together_or_not_at_all():
    def of(*layers: str, given: scheme.Scheme | None = None) -> dict[str, str]:
        words = tuple(scheme.Override(layers=each, scheme=given) for each in layers)
        return found(quantized(SMALL_MODEL, scheme.NVFP4(), overrides=words))

    assert of("o_proj", "down_proj", "layers.0.*") == {}
    assert of("q_proj", "k_proj", "v_proj") == {}
    assert of("v_proj", given=scheme.NVFP4A16()) == {}
    expected = {
        "models[1].overrides": "leave model.layers.0.self_attn.v_proj without NVFP4, in which q_proj, k_proj, v_proj "
        "share one factor, as vLLM joins them; override all of them or none"
    }
    assert of("v_proj", given=scheme.MXFP4()) == of("v_proj") == expected
    (reason,) = of("layers.1.mlp.gate_proj").values()
    assert "leave model.layers.1.mlp.gate_proj without NVFP4, in which gate_proj, up_proj share" in reason


def test_keys_and_values_are_rounded_with_weights_or_alone_where_there_are_some():
    def of(model, how, **changes):
        return found(quantized(model, how, kv_cache="float8", **changes))

    assert of(SMALL_MODEL, scheme.W8A16()) == of(SMALL_MODEL, None) == {}
    assert of(MASKED, scheme.W8A16()) == {
        "models[1].kv_cache": "'float8' is given, and Bert keeps no keys and values, for it reads all tokens at once; "
        "leave it out"
    }
    override = scheme.Override(layers="v_proj", scheme=None)
    assert list(of(SMALL_MODEL, None, overrides=(override,))) == ["models[1].overrides"]
    assert found(quantized(SMALL_MODEL, None, name="nothing")) == {
        "models[1].scheme": "None, and kv_cache as well, so nothing is quantized; use one, such as W4A16()"
    }
    names = [Quantized(model=SMALL_MODEL, scheme=how, kv_cache="float8").name for how in (None, scheme.W8A16())]
    assert names == ["small-model-kv8", "small-model-w8a16-kv8"]


def test_what_needs_more_of_a_text_than_hessians_propagates_errors():
    def of(how, **changes) -> dict[str, str]:
        return found(quantized(SMALL_MODEL, how, propagate_error=False, **changes))

    four, static = scheme.W4A16(group_size=32), scheme.FP8(activations="static", rounding=scheme.GPTQ())
    for fitting in (four, scheme.W8A8(smoothing_strength=None), scheme.FP8(observer="imatrix_mse"), scheme.MXFP4()):
        assert of(fitting) == {}
    more = "more of the text than its Hessians; leave it out"
    assert of(scheme.W8A8()) == {"models[1].propagate_error": f"False, and W8A8 needs {more}"}
    assert of(scheme.NVFP4()) == {"models[1].propagate_error": f"False, and NVFP4 needs {more}"}
    assert of(four, kv_cache="float8", rotate=True) == {
        "models[1].propagate_error": f"False, and rotate and kv_cache need {more}"
    }
    override = scheme.Override(layers="v_proj", scheme=static)
    assert of(four, overrides=(override,)) == {"models[1].propagate_error": f"False, and FP8 needs {more}"}
    assert of(scheme.FP8()) == {
        "models[1].propagate_error": "False, and weights are rounded without a text, so no error is propagated; leave "
        "it out"
    }


def test_what_auto_round_does_not_calibrate_or_keep_is_not_left_to_it():
    learned = scheme.W4A16(group_size=32, rounding=scheme.AutoRound())
    sparse = Pruned(model=SMALL_MODEL, method=prune.Magnitude(sparsity=0.5))
    assert found(quantized(SMALL_MODEL, learned)) == {}
    assert found(quantized(SMALL_MODEL, learned, kv_cache="float8")) == {
        "models[1].kv_cache": "'float8' is given, which AutoRound doesn't calibrate; use GPTQ(), or leave it out"
    }
    assert found(quantized(SMALL_MODEL, learned, propagate_error=False)) == {
        "models[1].propagate_error": "False, and AutoRound needs more of the text than its Hessians; leave it out"
    }
    assert found(quantized(sparse, learned)) == {
        "models[1].scheme.rounding": "AutoRound may round a zero up, and small-model-sparse50 is sparse; use GPTQ()"
    }


def test_a_rotated_model_has_an_output_layer_of_its_own():
    tied = evolve(SMALL_MODEL, start__tie_word_embeddings=True)
    asked = Quantized(model=tied, scheme=scheme.W8A16(), rotate=True)
    assert asked.network == evolve(tied.start, tie_word_embeddings=False)
    assert evolve(asked, rotate=False).network == tied.start


def test_what_an_encoder_puts_out_of_its_norms_is_not_rotated():
    assert found(quantized(SMALL_MODEL, scheme.FP8(), rotate=True)) == {}
    assert found(quantized(MODERN, scheme.FP8(), rotate=True)) == {
        "models[1].rotate": "True, and the norms of ModernBert subtract a mean, which isn't the same once channels are "
        "rotated; leave it out"
    }


def test_an_override_for_a_network_that_names_no_layers_says_what_its_author_has_to_define(monkeypatch):
    monkeypatch.setattr(Llama, "quantized_layers", {})
    override = scheme.Override(layers="v_proj", scheme=None)
    assert found(quantized(SMALL_MODEL, scheme.W8A16(), overrides=(override,)))["models[1].overrides[0].layers"] == (
        "'v_proj' is given, and Llama names no layers; define its quantized_layers"
    )


def test_heads_of_a_width_of_their_own_are_even_and_leave_a_llama_a_multiple_of_its_heads():
    odd = {"start__head_dim": 7, "start__num_attention_heads": 4}
    assert found(changed(SMALL_MODEL, **odd)) == {
        "start.head_dim": "7 is odd, and rotary positions turn pairs of a head's channels; use 6 or 8"
    }
    assert found(changed(SMALL_MODEL, start__head_dim=16, start__hidden_size=66)) == {
        "start.hidden_size": "66 is not a multiple of num_attention_heads = 4, and transformers' Llama needs one, "
        "whatever its head_dim; use Mistral, which is the same and doesn't"
    }
    fields = {field.name: getattr(SMALL_MODEL.start, field.name) for field in attrs.fields(Llama)}
    assert found(evolve(SMALL_MODEL, start=Mistral(**fields | {"head_dim": 16, "hidden_size": 66}))) == {}


@given(trained_models(), st.integers(2, 64))
def test_each_proposed_tensor_degree_divides_what_the_given_one_did_not(model, tensor):
    for path, reason in found(changed(model, parallelism__tensor=tensor)).items():
        if path == "parallelism.tensor":
            size = int(re.search(r"= (\d+);", reason)[1])
            assert size % tensor != 0
            assert proposals(reason)
            assert all(size % degree == 0 for degree in proposals(reason))


FIXABLE = {
    "num_key_value_heads": ("start__num_key_value_heads", st.integers(1, 40)),
    "hidden_size": ("start__hidden_size", st.integers(2, 600)),
    "global_batch_size": ("training__global_batch_size", st.integers(1, 200)),
    "sequence_length": ("objective__sequence_length", st.integers(2, 9000)),
    "make_vocab_size_divisible_by": ("start__make_vocab_size_divisible_by", st.integers(1, 64)),
}


@pytest.mark.parametrize("name", FIXABLE)
@settings(suppress_health_check=[HealthCheck.filter_too_much])
@given(data=st.data())
def test_each_proposed_number_mends_what_it_is_proposed_for(name, data):
    path, values = FIXABLE[name]
    model = data.draw(trained_models(kinds=[Llama]) if name == "num_key_value_heads" else trained_models())
    dotted = path.replace("__", ".")
    reason = found(changed(model, **{path: data.draw(values)})).get(dotted)
    assume(reason is not None)
    for number in proposals(reason.partition(", or a network")[0]):
        assert dotted not in found(changed(model, **{path: number}))


@pytest.mark.parametrize("length", range(2, 12))
@pytest.mark.parametrize("tensor", [1, 2, 4, 8])
def test_a_length_proposed_for_rearranged_documents_is_a_multiple_that_has_room_for_the_parts(length, tensor):
    model = changed(
        SMALL_MODEL,
        objective=CausalLM(sequence_length=length, fill_in_the_middle=FillInTheMiddle()),
        start__num_attention_heads=8,
        start__num_key_value_heads=8,
        parallelism=Parallelism(tensor=tensor, tensor_parallel_mode="reduce_scatter"),
    )
    violations = checks.violations(changed(SMALL, models=(model,), measures=()))
    reasons = [each.reason for each in violations if each.path.endswith("objective.sequence_length")]
    assert len(reasons) == (length % tensor != 0) + (length < 6)
    for number in itertools.chain.from_iterable(map(proposals, reasons)):
        assert number % tensor == 0
        assert number >= 6


def test_a_llama_has_a_width_for_each_head_whatever_its_head_dim():
    network = evolve(SMALL_MODEL.start, hidden_size=66, num_attention_heads=4, num_key_value_heads=2, head_dim=8)
    reason = found(evolve(SMALL_MODEL, start=network))["start.hidden_size"]
    assert "66 is not a multiple of num_attention_heads = 4, and transformers' Llama needs one" in reason
    others = {field.alias: getattr(network, field.name) for field in attrs.fields(Llama)}
    assert found(evolve(SMALL_MODEL, start=Mistral(**others))) == {}


@given(trained_models(kinds=[Llama, Bert]), st.integers(1, 4096))
def test_a_proposed_group_divides_the_input_width_of_every_quantized_layer(model, size):
    reason = found(Quantized(model=model, scheme=scheme.W4A16(group_size=size))).get("scheme.group_size")
    network = model.network
    widths = (network.hidden_size, network.feed_forward_size)
    head = getattr(network, "head_dim", None) or network.hidden_size // network.num_attention_heads
    of_heads = network.num_attention_heads * head
    assert (reason is None) == all(width % size == 0 for width in (*widths, of_heads))
    if reason:
        assert all(width % proposals(reason)[0] == 0 for width in (*widths, of_heads))
        of_hidden, of_intermediate = (
            ("q_proj", "down_proj") if isinstance(model.network, Llama) else ("query", "(output")
        )
        assert (of_hidden in reason) == (widths[0] % size != 0)
        assert (of_intermediate in reason) == (widths[1] % size != 0)


@given(
    st.sampled_from([Llama, Bert, ModernBert]),
    st.integers(1, 8),
    st.integers(1, 16),
    st.integers(1, 64),
    st.integers(257, 60_000),
    st.integers(1, 8),
)
def test_a_pipeline_degree_is_refused_exactly_if_nanotron_would_leave_a_rank_without_weights(
    kind, layers, heads, width, vocab_size, pipeline
):
    sizes = {"hidden_size": 2 * width * heads, "num_layers": layers, "num_attention_heads": heads}
    network = Llama(num_key_value_heads=heads, **sizes) if kind is Llama else kind(**sizes)
    model = changed(
        SMALL_MODEL if kind is Llama else MASKED,
        start=network,
        tokenizer__vocab_size=vocab_size,
        parallelism__pipeline=pipeline,
        parallelism__pipeline_schedule="afab",
    )
    reason = found(model).get("parallelism.pipeline")
    assert (reason is None) == (filled_by_nanotron(network, vocab_size, pipeline) and pipeline <= layers)
    if reason and pipeline <= layers:
        degree, more_layers = proposals(reason)
        assert filled_by_nanotron(network, vocab_size, degree)
        assert not filled_by_nanotron(network, vocab_size, degree + 1)
        assert filled_by_nanotron(evolve(network, num_layers=more_layers), vocab_size, pipeline)
        assert not filled_by_nanotron(evolve(network, num_layers=more_layers - 1), vocab_size, pipeline)


@given(trained_models(), st.integers(2, 6), st.integers(1, 8))
def test_1f1b_is_refused_exactly_if_nanotron_would_stop(model, pipeline, accumulation):
    batch = model.parallelism.data * model.parallelism.micro_batch_size * accumulation
    model = changed(
        model,
        parallelism__pipeline=pipeline,
        parallelism__pipeline_schedule="1f1b",
        training__global_batch_size=batch,
    )
    reason = found(model).get("parallelism.pipeline_schedule")
    # nanotron.parallel.pipeline_parallel.engine: "must be at least PP_SIZE-1"
    assert (reason is not None) == (accumulation < pipeline - 1)
    if reason:
        assert "parallelism.pipeline_schedule" not in found(changed(model, parallelism__pipeline_schedule="afab"))
        mended = changed(model, training__global_batch_size=proposals(reason)[0])
        assert not {"parallelism.pipeline_schedule", "training.global_batch_size"} & set(found(mended))


@given(trained_models(), st.integers(1, 50), st.integers(0, 60))
def test_a_proposed_warm_up_is_shorter_than_the_training(model, steps, warmup):
    model = changed(model, training__duration=Steps(steps), training__schedule=schedule.Cosine(warmup=Steps(warmup)))
    reason = found(model).get("training.schedule.warmup")
    assert (reason is None) == (warmup < steps)
    if reason:
        longest = proposals(reason)[0]
        assert longest == steps - 1
        assert found(changed(model, training__schedule=schedule.Cosine(warmup=Steps(longest)))) == {}


@given(trained_models(), st.integers(1, 50), st.integers(0, 49), st.integers(0, 60))
def test_a_proposed_decay_fits_after_the_warm_up(model, steps, warmup, decay):
    assume(warmup < steps)
    model = changed(model, training__duration=Steps(steps))
    course = schedule.WarmupStableDecay(warmup=Steps(warmup), decay=Steps(decay))
    reason = found(changed(model, training__schedule=course)).get("training.schedule.decay")
    assert (reason is None) == (0 < decay <= steps - warmup)
    if reason:
        mended = evolve(course, decay=Steps(proposals(reason)[0]))
        assert found(changed(model, training__schedule=mended)) == {}


def test_a_warm_up_given_as_a_share_counts_the_steps_of_its_training():
    warmup = schedule.Cosine(warmup=Fraction(0.01))
    assert found(changed(SMALL_MODEL, training__duration=Tokens(1), training__schedule=warmup)) == {
        "training.schedule.warmup": "this Fraction is 1 steps, and the whole run is 1; use at most Steps(0)"
    }


def test_everything_is_reported_at_once():
    model = changed(
        SMALL_MODEL,
        text__name="my corpus",
        text__shards=0,
        start__hidden_size=250,
        start__num_key_value_heads=3,
        objective__sequence_length=5000,
        training__global_batch_size=5,
        training__duration=Steps(0),
        training__optimizer=optimizer.AdamW(learning_rate=1e-3, beta2=1.0),
        training__seed=2**32,
        parallelism__micro_batch_size=2,
    )
    small_groups = Quantized(name="a", model=model, scheme=scheme.W4A16(group_size=48), seed=2**32)
    again = Quantized(model=small_groups, scheme=scheme.FP8(), calibration_samples=8)
    recipe = changed(
        SMALL,
        name="my recipe",
        models=(model, small_groups, changed(again, calibration_samples=0)),
        measures=(measure.Samples(prompts=("def ", "")), measure.PseudoPerplexity(max_tokens=31)),
    )
    assert set(found(recipe)) == {
        "name",
        "models[0].text.name",
        "models[0].text.shards",
        "models[0].start.hidden_size",
        "models[0].start.num_key_value_heads",
        "models[0].objective.sequence_length",
        "models[0].training.global_batch_size",
        "models[0].training.duration",
        "models[0].training.optimizer.beta2",
        "models[0].training.seed",
        "models[1].scheme.group_size",
        "models[1].seed",
        "models[2].calibration_samples",
        "measures",
        "measures[0].prompts[1]",
        "measures[1]",
    }


@pytest.mark.parametrize(
    ("changes", "path"),
    [
        ({"start__num_attention_heads": 0}, "start.num_attention_heads"),
        ({"start__num_attention_heads": "8"}, "start.num_attention_heads"),
        ({"start__intermediate_size": 0}, "start.intermediate_size"),
        ({"start__intermediate_size": "wide"}, "start.intermediate_size"),
        ({"start": None}, "start"),
        ({"start": "llama"}, "start"),
        ({"start": Llama}, "start"),
        ({"parallelism__data": 0}, "parallelism.data"),
        ({"parallelism__tensor": 0}, "parallelism.tensor"),
        ({"training__duration": 10}, "training.duration"),
        ({"training__schedule": None}, "training.schedule"),
        ({"training__optimizer": optimizer.SGD}, "training.optimizer"),
        ({"objective__sequence_length": None}, "objective.sequence_length"),
        ({"objective": None}, "objective"),
        ({"text": None}, "text"),
        ({"text__name": 3}, "text.name"),
        ({"text__source": "data/*.txt"}, "text.source"),
        ({"text__heldout": 0.05}, "text.heldout"),
        ({"tokenizer": "gpt2"}, "tokenizer"),
        ({"name": 3}, "name"),
        ({"name": ["x"]}, "name"),
    ],
)
def test_a_wrong_field_is_reported_alone_and_rules_that_need_it_keep_quiet(changes, path):
    model = changed(SMALL_MODEL, **changes)
    assert list(found(model)) == [path]
    rounded = Quantized(name="rounded", model=SMALL_MODEL, scheme=scheme.FP8())
    further = evolve(SMALL_MODEL, name="further", start=SMALL_MODEL, tokenizer=None)
    both = changed(SMALL, models=(changed(rounded, model=model), changed(further, start=model)))
    assert list(found(both)) == [f"models[0].model.{path}"]


@pytest.mark.parametrize(
    ("changes", "path"),
    [
        ({"models": SMALL_MODEL}, "models"),
        ({"models": (SMALL_MODEL, None)}, "models"),
        ({"models": (Trained,)}, "models"),
        ({"models": ()}, "models"),
        ({"measures": measure.Perplexity()}, "measures"),
        ({"measures": None}, "measures"),
    ],
)
def test_a_wrong_field_of_a_recipe_is_reported_alone(changes, path):
    assert list(found(changed(SMALL, **changes))) == [path]


def test_a_wrong_field_does_not_hide_what_other_fields_break():
    model = changed(SMALL_MODEL, start__rope_theta=-1.0, training__global_batch_size=5, parallelism__data=2)
    assert set(found(model)) == {"start.rope_theta", "training.global_batch_size"}


def test_what_is_wrong_with_a_shared_value_is_said_once_where_it_occurs_first():
    model = changed(SMALL_MODEL, text__shards=0, training__seed=2**32)
    # Equal, and not the same object.
    again = changed(SMALL_MODEL, text__shards=0, training__seed=2**32)
    recipe = changed(
        SMALL,
        models=(
            Quantized(model=model, scheme=scheme.FP8()),
            again,
            Quantized(model=again, scheme=scheme.W8A16(), text=model.text),
        ),
    )
    assert set(found(recipe)) == {"models[0].model.text.shards", "models[0].model.training.seed"}


def test_a_class_without_its_parentheses_is_explained():
    reason = found(changed(SMALL_MODEL, training__optimizer=optimizer.SGD))["training.optimizer"]
    assert "the class SGD; did you forget its parentheses?" in reason


@pytest.mark.parametrize("name", ["", "my model", "-x", "_x", "a.b", "a/b", "é", "a\n", 3])
@pytest.mark.parametrize("where", ["recipe", "model", "quantized", "text", "mixture", "tokenizer"])
def test_a_name_that_dvc_or_a_file_system_would_not_take_is_refused(name, where):
    with attrs.validators.disabled():
        if where == "recipe":
            recipe = evolve(SMALL, name=name)
        elif where == "quantized":
            recipe = quantized(SMALL_MODEL, scheme.FP8(), name=name)
        elif where == "mixture":
            corpora = (SMALL_MODEL.text, evolve(SMALL_MODEL.text, name="other"))
            mixture = Mixture(parts=tuple(Part(corpus=corpus) for corpus in corpora))
            recipe = small(text=evolve(mixture, name=name))
        else:
            recipe = small(**{"name" if where == "model" else f"{where}__name": name})
    assert [violation.path.rpartition(".")[2] for violation in checks.violations(recipe)] == ["name"]


@pytest.mark.parametrize(("length", "is_refused"), [(120, False), (151, True), (300, True)])
def test_a_name_leaves_room_for_what_comes_behind_it_in_files(length, is_refused):
    for recipe in (evolve(SMALL, name="x" * length), small(name="x" * length)):
        reasons = [reason for path, reason in found(recipe).items() if path.endswith("name")]
        assert bool(reasons) == is_refused
        assert all("use at most 150" in reason for reason in reasons)


@pytest.mark.parametrize(("length", "is_refused"), [(69, False), (70, True), (150, True)])
def test_a_text_and_its_tokenizer_have_names_that_fit_a_file_together(length, is_refused):
    reasons = found(small(text__name="x" * 150, tokenizer__name="t" * length))
    assert set(reasons) == ({"models[0].text"} if is_refused else set())
    assert all("use at most 219 together" in reason for reason in reasons.values())


@pytest.mark.parametrize(("length", "is_refused"), [(65, False), (66, True), (150, True)])
def test_so_have_a_model_and_a_text_of_which_hessians_are_kept(length, is_refused):
    text = Corpus(name="t" * length, source=source.PythonStdlib())
    rounded = Quantized(
        name="small",
        model=evolve(SMALL_MODEL, name="x" * 150),
        scheme=scheme.W4A16(group_size=32),
        text=text,
        calibration_samples=128,
        propagate_error=False,
    )
    reasons = found(evolve(SMALL, models=(rounded,), measures=()))
    assert any("use at most 215 together" in reason for reason in reasons.values()) == is_refused


def test_a_name_that_is_made_from_parts_is_one_for_files_or_asks_for_another():
    @define("w 2")
    class Odd(scheme.Scheme):
        """Two bits."""

    (path,) = found(quantized(SMALL_MODEL, Odd()))
    assert path == "models[1].name"
    assert found(quantized(SMALL_MODEL, Odd(), name="odd")) == {}


@given(st.text(min_size=1, max_size=20))
def test_a_proposed_name_is_accepted(name):
    reason = found(changed(SMALL_MODEL, text__name=name)).get("text.name")
    assume(reason is not None and "; use " in reason)
    proposed = reason.rpartition("; use '")[2].removesuffix("'")
    assert found(changed(SMALL_MODEL, text__name=proposed)) == {}


@given(st.text(min_size=1, max_size=20))
def test_a_proposed_name_of_a_measure_is_accepted(name):
    with attrs.validators.disabled():
        named = measure.Perplexity(name=name)
    reason = found(changed(SMALL, measures=(named,))).get("measures[0].name")
    assume(reason is not None and "; use '" in reason)
    proposed = reason.rpartition("; use '")[2].removesuffix("'")
    assert found(changed(SMALL, measures=(measure.Perplexity(name=proposed),))) == {}


@pytest.mark.parametrize(
    ("changes", "path"),
    [
        ({"text__heldout": Fraction(0.0)}, "text.heldout"),
        ({"text__heldout": Fraction(0.6)}, "text.heldout"),
        ({"text__heldout": source.PythonStdlib()}, "text.heldout"),
        (
            {"training__optimizer": optimizer.SGD(learning_rate=1.0, momentum=0.0, nesterov=True)},
            "training.optimizer.nesterov",
        ),
        ({"training__optimizer": optimizer.AdamW(learning_rate=1.0, beta1=1.0)}, "training.optimizer.beta1"),
        ({"training__optimizer__no_decay": ("norms", "biases", "norms")}, "training.optimizer.no_decay"),
        ({"objective": CausalLM(sequence_length=2049)}, "objective.sequence_length"),
        ({"tokenizer__vocab_size": 256}, "tokenizer.vocab_size"),
        ({"parallelism__async_tensor_parallel": True}, "parallelism.async_tensor_parallel"),
        ({"parallelism__bucket_size_mb": 0}, "parallelism.bucket_size_mb"),
    ],
)
def test_what_an_engine_would_only_say_once_it_runs_is_refused(changes, path):
    assert list(found(changed(SMALL_MODEL, **changes))) == [path]


FLOAT8 = changed(SMALL_MODEL, training__precision="float8")


def test_float8_goes_with_sizes_that_its_kernels_can_multiply():
    assert found(FLOAT8) == {}
    assert found(changed(FLOAT8, parallelism__tensor=2)) == {}
    assert found(changed(MASKED, training__precision="float8")) == {}


@pytest.mark.parametrize(
    ("changes", "path", "said"),
    [
        ({"start__intermediate_size": 200}, "training.precision", "intermediate_size = 200 isn't; use 192 or 208"),
        (
            {"start__intermediate_size": 208, "parallelism__tensor": 2},
            "training.precision",
            "intermediate_size = 208, 104 on each of tensor = 2 ranks, isn't; use 192 or 224 there, or 'bfloat16'",
        ),
        (
            {"start__head_dim": 10},
            "training.precision",
            "num_attention_heads × head_dim = 4 × 10 isn't; use 32 or 48 there",
        ),
        (
            {"start__num_key_value_heads": 1, "start__head_dim": 20},
            "training.precision",
            "(num_attention_heads + 2 × num_key_value_heads) × head_dim = (4 + 2 × 1) × 20 isn't; use 112 or 128 there",
        ),
        ({"objective__sequence_length": 40}, "objective.sequence_length", "40 is not a multiple of 16"),
        (
            {"parallelism__tensor": 2, "parallelism__async_tensor_parallel": True},
            "parallelism.async_tensor_parallel",
            "use False, or precision = 'bfloat16'",
        ),
    ],
)
def test_what_float8_can_not_multiply_is_refused_with_what_would_work(changes, path, said):
    assert said in found(changed(FLOAT8, **changes))[path]
    assert found(changed(FLOAT8, **changes, training__precision="bfloat16")) == {}


NARROW = changed(SMALL_MODEL, start__intermediate_size=176)


@pytest.mark.parametrize(
    ("model", "how", "path", "fix"),
    [
        (SMALL_MODEL, scheme.W4A16(group_size=48), "models[1].scheme.group_size", "use 32"),
        (SMALL_MODEL, scheme.W4AFP8(group_size=48), "models[1].scheme.group_size", "use 32"),
        (SMALL_MODEL, scheme.FP8Block(block_size=48), "models[1].scheme.block_size", "use 32"),
        (SMALL_MODEL, scheme.FP8Block(block_size=32, observer="imatrix_mse"), "models[1].scheme.observer", "use 'mse'"),
        (
            NARROW,
            scheme.MXFP4(),
            "models[1].scheme",
            "group of 32 does not divide intermediate_size = 176 (down_proj); "
            "use a scheme whose groups can be smaller, such as W4A16(group_size=16)",
        ),
        (SMALL_MODEL, scheme.W8A8(rounding=scheme.AWQ()), "models[1].scheme.smoothing_strength", "use None"),
        (MODERN, scheme.W8A8(), "models[1].scheme.smoothing_strength", "ModernBert's first layer has no norm"),
        (MODERN, scheme.FP8(rounding=scheme.AWQ()), "models[1].scheme.rounding", "use GPTQ()"),
        (
            SMALL_MODEL,
            scheme.FP8(rounding=scheme.AutoRound()),
            "models[1].scheme.rounding",
            "and not for FP8; use GPTQ()",
        ),
        (
            SMALL_MODEL,
            scheme.W4A16(group_size=32, symmetric=False, rounding=scheme.AutoRound()),
            "models[1].scheme.symmetric",
            "loses the zero points that AutoRound finds; use True",
        ),
        (MASKED, scheme.W8A16(rounding=scheme.AutoRound()), "models[1].scheme.rounding", "Bert is none; use GPTQ()"),
        (MODERN, scheme.W4AFP8(), "models[1].scheme", "use FP8"),
        (MODERN, scheme.NVFP4(), "models[1].scheme", "use FP8"),
        (MODERN, scheme.W8A16(), "models[1].scheme", "use FP8"),
        (MODERN, scheme.W4A16(group_size=48), "models[1].scheme", "use FP8"),
        (MASKED, scheme.W8A8(), "models[1].scheme.smoothing_strength", "additions, which read them too; use None"),
        (MASKED, scheme.W8A16(rounding=scheme.AWQ()), "models[1].scheme.rounding", "use GPTQ()"),
    ],
)
def test_a_scheme_that_a_network_can_not_have_is_refused_with_what_would_work(model, how, path, fix):
    violations = found(quantized(model, how))
    assert list(violations) == [path]
    assert fix in violations[path]


def test_a_quantized_model_can_be_neither_trained_nor_quantized_again():
    rounded = Quantized(model=SMALL_MODEL, scheme=scheme.FP8())
    twice = Quantized(model=rounded, scheme=scheme.W8A16())
    further = evolve(SMALL_MODEL, name="further", start=rounded, tokenizer=None)
    violations = found(changed(SMALL, models=(rounded, twice, further)))
    assert violations == {
        "models[1].model": "small-model-fp8 is Quantized, and a model is quantized once; quantize small-model",
        "models[2].start": "small-model-fp8 is Quantized: its weights are rounded, and can't be trained; start from "
        "small-model, and quantize what comes of it",
    }


def test_a_model_from_first_weights_needs_a_tokenizer_and_one_that_goes_on_brings_its_own():
    missing = found(evolve(SMALL_MODEL, tokenizer=None))
    assert list(missing) == ["tokenizer"]
    assert "use one that suits the text, such as ByteLevelBPE(vocab_size=32_000)" in missing["tokenizer"]
    further = evolve(SMALL_MODEL, name="further", start=SMALL_MODEL, tokenizer=None)
    assert found(further) == {}
    assert found(evolve(further, tokenizer=SMALL_MODEL.tokenizer)) == {}
    for tokenizer in (
        evolve(SMALL_MODEL.tokenizer, vocab_size=513),
        evolve(SMALL_MODEL.tokenizer, text=evolve(SMALL_MODEL.text, name="other")),
        PretrainedTokenizer(path="tokenizers/a"),
        WordPiece(vocab_size=512),
    ):
        violations = found(evolve(further, tokenizer=tokenizer))
        assert list(violations) == ["tokenizer"]
        assert "whose weights know its tokens alone; leave it out, or give the others" in violations["tokenizer"]
        assert found(evolve(further, tokenizer=tokenizer, resize_embeddings=True)) == {}
    # Without a text of its own it would be trained on the text of this model.
    on_other = evolve(further, text__name="other", tokenizer=SMALL_MODEL.tokenizer)
    assert list(found(on_other)) == ["tokenizer"]


def test_a_model_that_goes_on_obeys_the_network_and_the_tokenizer_of_its_start():
    further = evolve(SMALL_MODEL, name="further", start=SMALL_MODEL, tokenizer=None)
    assert list(found(evolve(further, objective=MaskedLM(sequence_length=32)))) == ["objective"]
    assert set(found(evolve(further, parallelism__tensor=8))) == {"parallelism.tensor"}
    assert "start.tokenizer.special_tokens" in found(evolve(further, objective__fill_in_the_middle=FillInTheMiddle()))
    heads = evolve(SMALL_MODEL, start__make_vocab_size_divisible_by=3)
    assert list(found(evolve(further, start=heads, parallelism__tensor=2))) == [
        "start.start.make_vocab_size_divisible_by"
    ]


@pytest.mark.parametrize(
    ("tokenizer", "path"),
    [
        (PretrainedTokenizer(), "tokenizer.path"),
        (PretrainedTokenizer(path="a", model=SMALL_MODEL), "tokenizer.path"),
        (PretrainedTokenizer(path="a"), None),
        (PretrainedTokenizer(model=SMALL_MODEL), None),
    ],
)
def test_a_tokenizer_that_exists_is_named_by_its_folder_or_its_model(tokenizer, path):
    assert list(found(evolve(SMALL_MODEL, name="other", tokenizer=tokenizer))) == ([path] if path else [])


def test_a_tokenizer_of_a_model_has_the_tokens_of_that_model():
    taken = PretrainedTokenizer(model=SMALL_MODEL)
    violations = found(evolve(MASKED, name="other", tokenizer=taken))
    assert list(violations) == ["tokenizer"]
    assert "ByteLevelBPE has no mask token" in violations["tokenizer"]


def test_what_augments_text_can_write():
    with_text = evolve(SMALL_MODEL, name="with-text", text__name="more")
    ask = augment.Paraphrase(model=SMALL_MODEL)
    assert found(evolve(with_text, text__augment=(ask,))) == {}
    assert list(found(evolve(with_text, text__augment=(evolve(ask, model=MASKED),)))) == ["text.augment[0].model"]
    translate = augment.BackTranslate(there=SMALL_MODEL, back="models/back")
    assert list(found(evolve(with_text, text__augment=(translate,)))) == ["text.augment[0].there"]


@pytest.mark.parametrize(
    ("measures", "path", "fix"),
    [
        ((), "measures", "add Perplexity()"),
        ((measure.Samples(prompts=("a",)),), "measures", "add Perplexity()"),
        ((measure.Perplexity(), measure.Perplexity()), "measures[1]", "give it a name of its own, or remove it"),
        ((measure.Perplexity(), measure.Perplexity(max_tokens=99)), "measures[1]", "is called 'perplexity' like"),
        ((measure.Perplexity(max_tokens=31),), "measures[0].max_tokens", "use at least 32"),
        ((measure.Perplexity(), measure.PseudoPerplexity()), "measures[1]", "use Perplexity"),
        ((measure.Perplexity(name="train"),), "measures[0].name", "what a kind of stage is called"),
        ((measure.Perplexity(name="a-b"),), "measures[0].name", "use 'a_b'"),
        ((measure.Perplexity(name="size-mb"),), "measures[0].name", "followed by letters, digits and `_`"),
        (
            (measure.Perplexity(), measure.Samples(prompts=("a",), text=SMALL_MODEL.text)),
            "measures[1].text",
            "reads no",
        ),
    ],
)
def test_what_a_recipe_can_not_measure_is_refused_with_what_would_work(measures, path, fix):
    violations = found(changed(SMALL, measures=measures))
    assert list(violations) == [path]
    assert fix in violations[path]


def test_two_measures_of_one_kind_have_names():
    measures = (measure.Perplexity(), measure.Perplexity(name="longer", max_tokens=10**6))
    assert found(evolve(SMALL, measures=measures)) == {}


def test_a_masked_model_is_asked_for_no_samples():
    recipe = evolve(SMALL, models=(MASKED,), measures=(measure.Perplexity(), measure.Samples(prompts=("a",))))
    assert "remove it" in found(recipe)["measures[1]"]


def test_a_masked_model_is_asked_no_tasks_of_lm_eval():
    asked = (measure.Perplexity(), measure.LMEval(tasks=("places",), folder="evals"))
    said = found(evolve(SMALL, models=(MASKED,), measures=asked))["measures[1]"]
    assert said == "LMEval asks how a text goes on, which MultiMaskLM doesn't learn; remove it"


def test_models_of_a_recipe_are_measured_on_one_text():
    other = evolve(SMALL_MODEL, name="other", text__name="web")
    violations = found(evolve(SMALL, models=(SMALL_MODEL, other)))
    assert violations == {
        "measures[0].text": "is missing: small-model was trained on stdlib, other was trained on web; say which one "
        "they are measured on, text=Corpus(…)"
    }
    assert found(evolve(SMALL, models=(SMALL_MODEL, other), measures=(measure.Perplexity(text=other.text),))) == {}


@define("existing")
class Existing(Model):
    """A model that nothing here trained."""

    name: str

    parents = ()
    network = SMALL_MODEL.network
    objective = SMALL_MODEL.objective
    vocabulary = PretrainedTokenizer(path="models/existing")
    training_text = None


def test_a_model_that_was_not_trained_here_has_no_text_to_calibrate_and_measure_on():
    existing = Existing(name="existing")
    recipe = quantized(existing, scheme.W8A16())
    violations = found(recipe)
    assert list(violations) == ["models[1].text", "measures[0].text"]
    assert "existing was not trained here" in violations["models[1].text"]
    text = SMALL_MODEL.text
    mended = quantized(existing, scheme.W8A16(), text=text)
    assert found(evolve(mended, measures=(measure.Perplexity(text=text),))) == {}


def test_a_measure_reads_a_sequence_of_each_part_of_a_mixture_for_the_longest_model():
    web = Corpus(name="web", source=source.TextFiles(paths=("a.txt",)))
    mixture = Mixture(parts=(Part(corpus=SMALL_MODEL.text, weight=9.0), Part(corpus=web)))
    short = evolve(SMALL_MODEL, text=mixture)
    long = evolve(short, name="long", objective__sequence_length=64)
    violations = found(evolve(SMALL, models=(short, long), measures=(measure.Perplexity(max_tokens=639),)))
    assert list(violations) == ["measures[0].max_tokens"]
    assert "use at least 640" in violations["measures[0].max_tokens"]
    assert found(evolve(SMALL, models=(short, long), measures=(measure.Perplexity(max_tokens=640),))) == {}


def test_a_model_is_named_in_a_recipe_once():
    assert list(found(evolve(SMALL, models=(*SMALL.models, SMALL_MODEL)))) == ["models[2]"]


@pytest.mark.parametrize(
    ("model", "changes", "path", "fix"),
    [
        (MASKED, {"start": SMALL_MODEL.start}, "objective", "use CausalLM"),
        (MASKED, {"start": SMALL_MODEL.start, "objective": MaskedLM(sequence_length=32)}, "objective", "use CausalLM"),
        (MASKED, {"objective": CausalLM(sequence_length=32)}, "objective", "use MaskedLM or MultiMaskLM"),
        (MODERN, {"objective": CausalLM(sequence_length=32)}, "objective", "and ModernBert reads those after it"),
        (MODERN, {"objective__sequence_length": 8193}, "objective.sequence_length", "use at most 8192"),
        (MODERN, {"start__hidden_size": 68}, "start.hidden_size", "use 64 or 72"),
        (MODERN, {"parallelism__tensor": 8}, "parallelism.tensor", "use 1, 2 or 4"),
        (MASKED, {"tokenizer": ByteLevelBPE(vocab_size=300)}, "tokenizer", "use WordPiece(vocab_size=300)"),
        (MASKED, {"tokenizer": Unigram(vocab_size=512)}, "tokenizer", "use WordPiece(vocab_size=512)"),
        (MASKED, {"objective__mask_rate": 0.0}, "objective.mask_rate", "0.15"),
        (MASKED, {"objective__mask_rate": 1.0}, "objective.mask_rate", "0.15"),
        (MASKED, {"objective__mask_share": 0.95}, "objective.random_share", "use at most 0.05"),
        (MASKED, {"objective__mask_share": 0.0, "objective__random_share": 0.0}, "objective.mask_share", "use 0.8"),
        (MASKED, {"objective__masking__max_length": 32}, "objective.masking.max_length", "use at most 31"),
        (MASKED, {"objective__sequence_length": 513}, "objective.sequence_length", "use at most 512"),
        (MASKED, {"start__num_attention_heads": 5}, "start.hidden_size", "use 60 or 65"),
        (MASKED, {"parallelism__tensor": 8}, "parallelism.tensor", "use 1, 2 or 4"),
        (REARRANGED, {"objective__fill_in_the_middle__rate": 0.0}, f"{PARTS}.rate", "more than 0 and at most 1"),
        (REARRANGED, {"objective__fill_in_the_middle__suffix_first_share": 1.1}, f"{PARTS}.suffix_first_share", "1"),
        (REARRANGED, {"objective__fill_in_the_middle__prefix_token": ""}, f"{PARTS}.prefix_token", "not be empty"),
        (
            REARRANGED,
            {"objective__fill_in_the_middle__suffix_token": "<|fim_prefix|>"},
            f"{PARTS}.suffix_token",
            "'<|fim_prefix|>' is the prefix_token already; use another, such as '<|fim_suffix|>'",
        ),
        (
            REARRANGED,
            {"objective__fill_in_the_middle__middle_token": "<|endoftext|>"},
            f"{PARTS}.middle_token",
            "is the tokenizer's end_of_text; use another, such as '<|fim_middle|>'",
        ),
        (REARRANGED, {"objective__sequence_length": 5}, "objective.sequence_length", "use at least 6"),
        (
            REARRANGED,
            {"tokenizer__special_tokens": ("<a>", "<|fim_middle|>")},
            "tokenizer.special_tokens",
            "use ('<a>', '<|fim_middle|>', '<|fim_prefix|>', '<|fim_suffix|>')",
        ),
        (
            REARRANGED,
            {"tokenizer": WordPiece(vocab_size=512)},
            "tokenizer",
            "use ByteLevelBPE(vocab_size=512, special_tokens=('<|fim_prefix|>', '<|fim_middle|>', '<|fim_suffix|>'))",
        ),
        (
            REARRANGED,
            {"tokenizer": ByteLevelBPE(vocab_size=257)},
            "tokenizer.special_tokens",
            "'<|fim_suffix|>'), and vocab_size = 260",
        ),
        (REARRANGED, {"tokenizer__vocab_size": 259}, "tokenizer.vocab_size", "use at least 260"),
        (SMALL_MODEL, {"tokenizer__special_tokens": ("<a>", "<a>")}, "tokenizer.special_tokens", "keep one"),
        (SMALL_MODEL, {"tokenizer__special_tokens": ("<a>", "")}, "tokenizer.special_tokens[1]", "must not be empty"),
        (
            SMALL_MODEL,
            {"tokenizer__special_tokens": ("<a>", "a")},
            "tokenizer.special_tokens[1]",
            "that texts are made of; use a name in brackets that no document holds, such as '<|fim_prefix|>'",
        ),
        (SMALL_MODEL, {"tokenizer__special_tokens": ("<|endoftext|>",)}, "tokenizer.special_tokens[0]", "end_of_text"),
        (
            SMALL_MODEL,
            {"tokenizer": Unigram(vocab_size=303, special_tokens=("<0x0A >", "<0x0A>"))},
            "tokenizer.special_tokens[1]",
            "one of the tokens that every Unigram has",
        ),
        (
            SMALL_MODEL,
            {"tokenizer": Unigram(vocab_size=302, special_tokens=("<a>", "<b>", "<c>"))},
            "tokenizer.vocab_size",
            "302 leaves no room for 3 special_tokens next to what every Unigram has; use at least 303",
        ),
    ],
)
def test_what_an_objective_can_not_have_is_refused_with_what_would_work(model, changes, path, fix):
    violations = found(changed(model, **changes))

    assert list(violations) == [path]
    assert fix in violations[path]


@pytest.mark.parametrize("kind", [ByteLevelBPE, Unigram])
@pytest.mark.parametrize(
    "token", ["the", "e", " ", "\n\n", "...", "<>", "[1]", "{}", "end of text", "<|end|>\n", "# END"]
)
def test_a_token_that_texts_are_made_of_ends_no_document_and_is_not_special(kind, token):
    model = evolve(SMALL_MODEL, tokenizer=kind(vocab_size=400, end_of_text=token))
    assert list(found(model)) == ["tokenizer.end_of_text"]
    assert "such as '<|endoftext|>'" in found(model)["tokenizer.end_of_text"]
    special = evolve(SMALL_MODEL, tokenizer=kind(vocab_size=400, special_tokens=("<a>", token)))
    assert list(found(special)) == ["tokenizer.special_tokens[1]"]


@pytest.mark.parametrize(
    "token", ["</s>", "<eos>", "[EOS]", "<|endoftext|>", "<｜end▁of▁sentence｜>", "{fin}", "<文末>"]
)
def test_a_name_in_brackets_may_end_documents(token):
    assert found(evolve(SMALL_MODEL, tokenizer__end_of_text=token)) == {}


@pytest.mark.parametrize("token", ["<unk>", "<0x41>"])
def test_a_token_that_every_unigram_model_has_ends_no_document(token):
    model = evolve(SMALL_MODEL, tokenizer=Unigram(vocab_size=400, end_of_text=token))
    assert list(found(model)) == ["tokenizer.end_of_text"]


def test_a_masked_recipe_may_mask_and_mix_as_it_likes():
    for objective in (
        MaskedLM(sequence_length=32, masking=masking.SingleTokens(), mask_share=1.0, random_share=0.0),
        MaskedLM(sequence_length=32, masking=masking.Spans(max_length=31)),
        MultiMaskLM(sequence_length=32, mask_share=0.7, random_share=0.3),
    ):
        assert found(evolve(MASKED, objective=objective)) == {}
    # Words for encoders are no harm to a decoder.
    assert found(evolve(SMALL_MODEL, tokenizer=WordPiece(vocab_size=512))) == {}


def test_a_dense_recipe_may_go_without_perplexity():
    assert found(evolve(SMALL, models=(SMALL_MODEL,), measures=())) == {}


@given(trained_models(), st.integers(2, 8))
def test_reduce_scatter_needs_a_sequence_that_the_tensor_ranks_can_share(model, tensor):
    model = changed(model, parallelism__tensor=tensor, parallelism__tensor_parallel_mode="reduce_scatter")
    assert ("objective.sequence_length" in found(model)) == (model.objective.sequence_length % tensor != 0)


@settings(suppress_health_check=[HealthCheck.filter_too_much])
@given(trained_models(), st.integers(2, 8))
def test_a_vocabulary_of_any_size_splits_over_the_tensor_ranks(model, tensor):
    model = changed(model, parallelism__tensor=tensor)
    assume(not any(path in found(model) for path in ("parallelism.tensor", "start.make_vocab_size_divisible_by")))
    assert all(model.network.padded_vocab_size(size) % tensor == 0 for size in range(257, 400))
    assert math.gcd(model.network.num_attention_heads, tensor) == tensor


def test_a_users_own_words_obey_the_rules_of_what_they_hold():
    @define("short_filter")
    class ShortFilter(clean.LengthFilter):
        """A filter of a user's own."""

    violations = found(evolve(SMALL_MODEL, text__clean=(ShortFilter(),)))
    assert list(violations) == ["text.clean[0].min_characters"]


def replaced(value, word, field, other):
    """`value` with `other` in a field of one of the words in it."""
    if value is word:
        return attrs.evolve(value, **{field.alias: other})
    if isinstance(value, tuple):
        return tuple(replaced(item, word, field, other) for item in value)
    if not isinstance(value, Word):
        return value
    names = {each.alias: getattr(value, each.name) for each in attrs.fields(type(value))}
    changes = {name: replaced(item, word, field, other) for name, item in names.items()}
    return attrs.evolve(value, **{name: item for name, item in changes.items() if item is not names[name]})


ODD = [None, -1, 0, 2**33, 1.5, -1.5, float("nan"), "", "a b", "é", b"x", [], ["x"], {}, (), (None,), ("x",), object]
ODD += [Trained, SMALL_MODEL, SMALL_MODEL.text, SMALL_MODEL.start, Steps(0), Fraction(1.0), SMALL]


@settings(max_examples=100, phases=[Phase.generate], suppress_health_check=[HealthCheck.data_too_large])
@given(st.data())
def test_whatever_is_wrong_is_reported_and_never_breaks_a_check(data):
    recipe = data.draw(st.sampled_from([SMALL, LARGE]))
    changes = []
    with attrs.validators.disabled():
        for _ in range(data.draw(st.integers(1, 3))):
            word = data.draw(st.sampled_from([word for _, word in names.words(recipe, "")]))
            field = data.draw(st.sampled_from(attrs.fields(type(word))))
            other = data.draw(st.sampled_from(ODD))
            changes.append((field, other))
            recipe = replaced(recipe, word, field, other)
    violations = checks.violations(recipe)
    preflight.violations(recipe, Path())
    field, other = changes[-1]
    if not matches(other, field.type) and not (isinstance(other, int | tuple)):
        assert any(violation.path.endswith(f".{field.alias}") for violation in violations)


LARGE = evolve(
    SMALL,
    models=(
        REARRANGED,
        evolve(
            evolve(MASKED, name="masked"),
            text__augment=(augment.Paraphrase(model=SMALL_MODEL), augment.TokenNoise()),
            text__name="more",
            text__heldout=source.JsonlFiles(paths=("a.jsonl",), url_field="url"),
            text__clean=(clean.UrlBlocklist(), clean.MinHashDedup(), clean.Decontaminate(heldout=True)),
        ),
        evolve(SMALL_MODEL, name="taken", tokenizer=PretrainedTokenizer(path="a")),
        Quantized(
            name="q",
            model=evolve(SMALL_MODEL, name="further", start=SMALL_MODEL, tokenizer=None),
            scheme=scheme.W4A16(group_size=32),
            text=Mixture(
                parts=(Part(corpus=SMALL_MODEL.text), Part(corpus=evolve(SMALL_MODEL.text, name="b"), weight=2.0))
            ),
        ),
    ),
    measures=(measure.Perplexity(text=SMALL_MODEL.text), measure.PseudoPerplexity(text=SMALL_MODEL.text)),
)


@pytest.mark.parametrize(
    ("changes", "path", "says"),
    [
        ({"parallelism__data": 10**5, "parallelism__tensor": 2}, "parallelism.data", "use at most 512"),
        (
            {"parallelism__data": 100, "parallelism__tensor": 100, "parallelism__pipeline": 100},
            "parallelism.data",
            "at most 1,024 in all",
        ),
        ({"training__duration": Steps(10**9), "training__global_batch_size": 10**6}, "training.duration", "Steps("),
        (
            {"training__global_batch_size": 10**8, "objective__sequence_length": 10**7 + 10**7},
            "objective.sequence_length",
            "between",
        ),
        ({"training__optimizer__learning_rate": 1e-60}, "training.optimizer.learning_rate", "at least 1e-38"),
        ({"training__optimizer__eps": 1e-50}, "training.optimizer.eps", "at least 1e-38"),
        ({"training__optimizer__weight_decay": 1e-60}, "training.optimizer.weight_decay", "0 or at least 1e-38"),
        ({"training__optimizer__weight_decay": 1e300}, "training.optimizer.weight_decay", "between 0 and 3.4e+38"),
        ({"training__optimizer__beta2": 1 - 1e-12}, "training.optimizer.beta2", "is 1 in float32"),
        ({"training__dropout__residual": 1 - 1e-12}, "training.dropout.residual", "is 1 in float32"),
        ({"training__z_loss": 1e-300}, "training.z_loss", "0 or at least 1e-38"),
    ],
)
def test_numbers_that_make_no_sense_are_refused_where_they_stand(changes, path, says):
    assert says in found(changed(SMALL_MODEL, **changes))[path]


def test_a_rate_and_a_decay_whose_product_is_infinite_are_refused_together():
    how = optimizer.AdamW(learning_rate=1e30, weight_decay=1e30)
    reason = found(changed(SMALL_MODEL, training__optimizer=how))["training.optimizer.weight_decay"]
    most = float(reason.rpartition("at most ")[2])
    assert "training.optimizer.weight_decay" not in found(
        changed(SMALL_MODEL, training__optimizer=evolve(how, weight_decay=most))
    )


def test_steps_that_are_proposed_read_no_more_than_a_run_may():
    long = changed(SMALL_MODEL, training__duration=Steps(10**9), training__global_batch_size=10**6)
    (most,) = proposals(found(long)["training.duration"])
    assert not found(changed(long, training__duration=Steps(most)))
    assert found(changed(long, training__duration=Steps(most + 1)))
