import math
import re

import attrs
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from strategies import SMALL, filled_by_nanotron, recipes

from llmrecipe import (
    FP8,
    SGD,
    W4A16,
    W8A8,
    W8A16,
    AdamW,
    Bert,
    ByteLevelBPE,
    CausalLM,
    Cosine,
    FillInTheMiddle,
    Fraction,
    Llama,
    MaskedLM,
    ModernBert,
    MultiMaskLM,
    Perplexity,
    PseudoPerplexity,
    Quantize,
    Samples,
    SingleTokens,
    Spans,
    Steps,
    Tokens,
    Unigram,
    WarmupStableDecay,
    WordPiece,
)
from llmrecipe.recipe import checks


def changed(recipe, **changes):
    """`recipe` with fields set at paths written with `__`."""
    for path, value in changes.items():
        first, _, rest = path.partition("__")
        recipe = attrs.evolve(recipe, **{first: changed(getattr(recipe, first), **{rest: value}) if rest else value})
    return recipe


def loaded(**changes):
    """SMALL, changed as the loader would let a user change it: unchecked."""
    with attrs.validators.disabled():
        return changed(SMALL, **changes)


MASKED = changed(
    SMALL,
    model=Bert(hidden_size=64, num_layers=2, num_attention_heads=4),
    tokenizer=WordPiece(vocab_size=512),
    objective=MultiMaskLM(sequence_length=32),
    evaluation=(Perplexity(),),
)
REARRANGED = changed(
    SMALL,
    tokenizer__special_tokens=FillInTheMiddle().tokens,
    objective__fill_in_the_middle=FillInTheMiddle(),
)
PARTS = "objective.fill_in_the_middle"
MODERN = changed(
    MASKED,
    model=ModernBert(hidden_size=64, num_layers=2, num_attention_heads=4),
    compression=(Quantize(scheme=FP8()),),
)


def found(recipe):
    violations = checks.violations(recipe)
    assert len({(violation.path, violation.reason) for violation in violations}) == len(violations)
    return {violation.path.removeprefix(f"{recipe.name}."): violation.reason for violation in violations}


def proposals(reason):
    """The numbers after the last `use`."""
    return list(map(int, re.findall(r"\d+", reason.rpartition("use ")[2])))


@given(recipes())
def test_a_recipe_that_can_work_has_no_violations(recipe):
    assert checks.violations(recipe) == []


def test_the_message_of_a_tensor_degree_is_the_one_that_is_promised():
    recipe = changed(SMALL, name="quickstart", parallelism__tensor=3, model__num_attention_heads=8)
    assert str(checks.violations(recipe)[0]) == (
        "quickstart.parallelism.tensor: 3 does not divide num_attention_heads = 8; use 1, 2, 4 or 8"
    )


def test_a_group_that_does_not_fit_names_the_layers_and_proposes_one_that_fits():
    wide = Llama(hidden_size=576, num_layers=2, num_attention_heads=9, num_key_value_heads=3, intermediate_size=1536)
    recipe = changed(SMALL, model=wide, compression=(Quantize(scheme=W4A16()),))
    assert found(recipe) == {
        "compression[0].scheme.group_size": "W4A16's group of 128 does not divide hidden_size = 576 (q_proj, k_proj, "
        "v_proj, o_proj, gate_proj, up_proj); use 64"
    }


@given(recipes(), st.integers(2, 64))
def test_each_proposed_tensor_degree_divides_what_the_given_one_did_not(recipe, tensor):
    for violation in checks.violations(changed(recipe, parallelism__tensor=tensor)):
        if violation.path.endswith("parallelism.tensor"):
            size = int(re.search(r"= (\d+);", violation.reason)[1])
            assert size % tensor != 0
            assert proposals(violation.reason)
            assert all(size % degree == 0 for degree in proposals(violation.reason))


FIXABLE = {
    "num_key_value_heads": ("model__num_key_value_heads", st.integers(1, 40)),
    "hidden_size": ("model__hidden_size", st.integers(2, 600)),
    "global_batch_size": ("training__global_batch_size", st.integers(1, 200)),
    "sequence_length": ("objective__sequence_length", st.integers(2, 9000)),
    "make_vocab_size_divisible_by": ("model__make_vocab_size_divisible_by", st.integers(1, 64)),
}


@pytest.mark.parametrize("name", FIXABLE)
@given(data=st.data())
def test_each_proposed_number_mends_what_it_is_proposed_for(name, data):
    path, values = FIXABLE[name]
    recipe = data.draw(recipes(kinds=[Llama]) if name == "num_key_value_heads" else recipes())
    dotted = path.replace("__", ".")
    reason = found(changed(recipe, **{path: data.draw(values)})).get(dotted)
    assume(reason is not None)
    for number in proposals(reason.partition(", or a model")[0]):
        assert dotted not in found(changed(recipe, **{path: number}))


@given(recipes(kinds=[Llama, Bert]), st.integers(1, 4096))
def test_a_proposed_group_divides_the_input_width_of_every_quantized_layer(recipe, size):
    recipe = changed(recipe, compression=(Quantize(scheme=W4A16(group_size=size)),))
    reason = found(recipe).get("compression[0].scheme.group_size")
    widths = (recipe.model.hidden_size, recipe.model.feed_forward_size)
    assert (reason is None) == all(width % size == 0 for width in widths)
    if reason:
        assert all(width % proposals(reason)[0] == 0 for width in widths)
        of_hidden, of_intermediate = (
            ("q_proj", "down_proj") if isinstance(recipe.model, Llama) else ("query", "(output")
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
    model = Llama(num_key_value_heads=heads, **sizes) if kind is Llama else kind(**sizes)
    recipe = changed(
        SMALL if kind is Llama else MASKED,
        model=model,
        tokenizer__vocab_size=vocab_size,
        parallelism__pipeline=pipeline,
        parallelism__pipeline_schedule="afab",
        compression=(),
    )
    reason = found(recipe).get("parallelism.pipeline")
    assert (reason is None) == (filled_by_nanotron(model, vocab_size, pipeline) and pipeline <= layers)
    if reason and pipeline <= layers:
        degree, more_layers = proposals(reason)
        assert filled_by_nanotron(model, vocab_size, degree)
        assert not filled_by_nanotron(model, vocab_size, degree + 1)
        assert filled_by_nanotron(changed(model, num_layers=more_layers), vocab_size, pipeline)
        assert not filled_by_nanotron(changed(model, num_layers=more_layers - 1), vocab_size, pipeline)


@given(recipes(), st.integers(2, 6), st.integers(1, 8))
def test_1f1b_is_refused_exactly_if_nanotron_would_stop(recipe, pipeline, accumulation):
    batch = recipe.parallelism.data * recipe.parallelism.micro_batch_size * accumulation
    recipe = changed(
        recipe,
        parallelism__pipeline=pipeline,
        parallelism__pipeline_schedule="1f1b",
        training__global_batch_size=batch,
    )
    reason = found(recipe).get("parallelism.pipeline_schedule")
    # nanotron.parallel.pipeline_parallel.engine: "must be at least PP_SIZE-1"
    assert (reason is not None) == (accumulation < pipeline - 1)
    if reason:
        assert "parallelism.pipeline_schedule" not in found(changed(recipe, parallelism__pipeline_schedule="afab"))
        mended = changed(recipe, training__global_batch_size=proposals(reason)[0])
        assert not {"parallelism.pipeline_schedule", "training.global_batch_size"} & set(found(mended))


@given(recipes(), st.integers(1, 50), st.integers(0, 60))
def test_a_proposed_warm_up_is_shorter_than_the_training(recipe, steps, warmup):
    recipe = changed(recipe, training__duration=Steps(steps), training__schedule=Cosine(warmup=Steps(warmup)))
    reason = found(recipe).get("training.schedule.warmup")
    assert (reason is None) == (warmup < steps)
    if reason:
        longest = proposals(reason)[0]
        assert longest == steps - 1
        assert found(changed(recipe, training__schedule=Cosine(warmup=Steps(longest)))) == {}


@given(recipes(), st.integers(1, 50), st.integers(0, 49), st.integers(0, 60))
def test_a_proposed_decay_fits_after_the_warm_up(recipe, steps, warmup, decay):
    assume(warmup < steps)
    changes = {"training__duration": Steps(steps)}
    schedule = WarmupStableDecay(warmup=Steps(warmup), decay=Steps(decay))
    reason = found(changed(recipe, **changes, training__schedule=schedule)).get("training.schedule.decay")
    assert (reason is None) == (0 < decay <= steps - warmup)
    if reason:
        mended = attrs.evolve(schedule, decay=Steps(proposals(reason)[0]))
        assert found(changed(recipe, **changes, training__schedule=mended)) == {}


def test_a_warm_up_given_as_a_share_counts_the_steps_of_its_training():
    recipe = changed(SMALL, training__duration=Tokens(1), training__schedule=Cosine(warmup=Fraction(0.01)))
    assert found(recipe) == {
        "training.schedule.warmup": "this Fraction is 1 steps, and the whole training is 1; use at most Steps(0)"
    }


def test_everything_is_reported_at_once():
    recipe = loaded(
        corpus__name="my corpus",
        corpus__shards=0,
        model__hidden_size=250,
        model__num_key_value_heads=3,
        objective__sequence_length=5000,
        training__global_batch_size=5,
        training__duration=Steps(0),
        training__optimizer=AdamW(learning_rate=1e-3, beta2=1.0),
        training__seed=2**32,
        parallelism__micro_batch_size=2,
        compression=(Quantize(scheme=W4A16(group_size=48)), Quantize(scheme=W4A16(group_size=2))),
        evaluation=(Samples(prompts=("def ", "")),),
        runtime__device="tpu",
    )
    assert set(found(recipe)) == {
        "corpus.name",
        "corpus.shards",
        "model.hidden_size",
        "model.num_key_value_heads",
        "objective.sequence_length",
        "training.global_batch_size",
        "training.duration",
        "training.optimizer.beta2",
        "training.seed",
        "compression[0].scheme.group_size",
        "compression[1]",
        "evaluation",
        "evaluation[0].prompts[1]",
        "runtime.device",
    }


@pytest.mark.parametrize(
    ("changes", "path"),
    [
        ({"model__num_attention_heads": 0}, "model.num_attention_heads"),
        ({"model__num_attention_heads": "8"}, "model.num_attention_heads"),
        ({"model__intermediate_size": 0}, "model.intermediate_size"),
        ({"model__intermediate_size": "wide"}, "model.intermediate_size"),
        ({"model": None}, "model"),
        ({"parallelism__data": 0}, "parallelism.data"),
        ({"parallelism__tensor": 0}, "parallelism.tensor"),
        ({"training__duration": 10}, "training.duration"),
        ({"training__schedule": None}, "training.schedule"),
        ({"training__optimizer": SGD}, "training.optimizer"),
        ({"objective__sequence_length": None}, "objective.sequence_length"),
        ({"compression": Quantize(scheme=W4A16())}, "compression"),
        ({"evaluation": Perplexity()}, "evaluation"),
        ({"corpus__name": 3}, "corpus.name"),
        ({"tokenizer": "gpt2"}, "tokenizer"),
    ],
)
def test_a_wrong_field_is_reported_alone_and_rules_that_need_it_keep_quiet(changes, path):
    assert list(found(loaded(**changes))) == [path]


def test_a_wrong_field_does_not_hide_what_other_fields_break():
    recipe = loaded(model__rope_theta=-1.0, training__global_batch_size=5, parallelism__data=2)
    assert set(found(recipe)) == {"model.rope_theta", "training.global_batch_size"}


def test_a_class_without_its_parentheses_is_explained():
    assert (
        "the class SGD; did you forget its parentheses?" in found(loaded(training__optimizer=SGD))["training.optimizer"]
    )


@pytest.mark.parametrize("name", ["", "my model", "-x", "_x", "a.b", "a/b", "é", "a\n", 3, None])
def test_a_name_that_dvc_or_a_file_system_would_not_take_is_refused(name):
    with attrs.validators.disabled():
        recipe = attrs.evolve(SMALL, name=name)
    assert [violation.path.rpartition(".")[2] for violation in checks.violations(recipe)] == ["name"]


@given(st.text(min_size=1, max_size=20))
def test_a_proposed_name_is_accepted(name):
    reason = found(changed(SMALL, corpus__name=name)).get("corpus.name")
    assume(reason is not None and "; use " in reason)
    proposed = reason.rpartition("; use '")[2].removesuffix("'")
    assert found(changed(SMALL, corpus__name=proposed)) == {}


@pytest.mark.parametrize(
    ("changes", "path"),
    [
        ({"corpus__heldout_fraction": 0.0}, "corpus.heldout_fraction"),
        ({"evaluation": ()}, "evaluation"),
        ({"evaluation": (Perplexity(), Perplexity())}, "evaluation[1]"),
        ({"evaluation": (Perplexity(max_tokens=31),)}, "evaluation[0].max_tokens"),
        ({"training__optimizer": SGD(learning_rate=1.0, momentum=0.0, nesterov=True)}, "training.optimizer.nesterov"),
        ({"training__optimizer": AdamW(learning_rate=1.0, beta1=1.0)}, "training.optimizer.beta1"),
        ({"training__optimizer__no_decay": ("norms", "biases", "norms")}, "training.optimizer.no_decay"),
        ({"compression": (Quantize(scheme=W4A16(group_size=32), seed=2**32),)}, "compression[0].seed"),
        ({"objective": CausalLM(sequence_length=2049)}, "objective.sequence_length"),
        ({"tokenizer__vocab_size": 256}, "tokenizer.vocab_size"),
        ({"parallelism__async_tensor_parallel": True}, "parallelism.async_tensor_parallel"),
        ({"parallelism__bucket_size_mb": 0}, "parallelism.bucket_size_mb"),
    ],
)
def test_what_an_engine_would_only_say_once_it_runs_is_refused(changes, path):
    assert list(found(loaded(**changes))) == [path]


@pytest.mark.parametrize(
    ("recipe", "changes", "path", "fix"),
    [
        (MASKED, {"model": SMALL.model}, "objective", "use CausalLM, or model = Bert(…) or ModernBert(…)"),
        (MASKED, {"model": SMALL.model, "objective": MaskedLM(sequence_length=32)}, "objective", "use CausalLM"),
        (MASKED, {"objective": CausalLM(sequence_length=32)}, "objective", "use MaskedLM or MultiMaskLM"),
        (MODERN, {"objective": CausalLM(sequence_length=32)}, "objective", "and ModernBert reads those after it"),
        (MODERN, {"objective__sequence_length": 8193}, "objective.sequence_length", "use at most 8192"),
        (MODERN, {"model__hidden_size": 68}, "model.hidden_size", "use 64 or 72"),
        (MODERN, {"parallelism__tensor": 8}, "parallelism.tensor", "use 1, 2 or 4"),
        (MODERN, {"compression": (Quantize(scheme=W8A8()),)}, "compression[0].scheme", "use FP8"),
        (MODERN, {"compression": (Quantize(scheme=W8A16()),)}, "compression[0].scheme", "use FP8"),
        (MODERN, {"compression": (Quantize(scheme=W4A16(group_size=48)),)}, "compression[0].scheme", "use FP8"),
        (MASKED, {"tokenizer": ByteLevelBPE(vocab_size=300)}, "tokenizer", "use WordPiece(vocab_size=300)"),
        (MASKED, {"tokenizer": Unigram(vocab_size=512)}, "tokenizer", "use WordPiece(vocab_size=512)"),
        (MASKED, {"objective__mask_rate": 0.0}, "objective.mask_rate", "0.15"),
        (MASKED, {"objective__mask_rate": 1.0}, "objective.mask_rate", "0.15"),
        (MASKED, {"objective__mask_share": 0.95}, "objective.random_share", "use at most 0.05"),
        (MASKED, {"objective__mask_share": 0.0, "objective__random_share": 0.0}, "objective.mask_share", "use 0.8"),
        (MASKED, {"objective__masking__max_length": 32}, "objective.masking.max_length", "use at most 31"),
        (MASKED, {"objective__sequence_length": 513}, "objective.sequence_length", "use at most 512"),
        (MASKED, {"model__num_attention_heads": 5}, "model.hidden_size", "use 60 or 65"),
        (MASKED, {"parallelism__tensor": 8}, "parallelism.tensor", "use 1, 2 or 4"),
        (MASKED, {"compression": (Quantize(scheme=W8A8()),)}, "compression[0].scheme", "use W8A16 or FP8"),
        (MASKED, {"evaluation": (Perplexity(), Samples(prompts=("a",)))}, "evaluation[1]", "remove it"),
        (MASKED, {"evaluation": (Perplexity(), *[PseudoPerplexity()] * 2)}, "evaluation[2]", "keep one"),
        (SMALL, {"evaluation": (Perplexity(), PseudoPerplexity())}, "evaluation[1]", "use Perplexity"),
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
        (SMALL, {"tokenizer__special_tokens": ("<a>", "<a>")}, "tokenizer.special_tokens", "keep one"),
        (SMALL, {"tokenizer__special_tokens": ("<a>", "")}, "tokenizer.special_tokens[1]", "must not be empty"),
        (SMALL, {"tokenizer__special_tokens": ("<a>", "a")}, "tokenizer.special_tokens[1]", "of which texts are made"),
        (SMALL, {"tokenizer__special_tokens": ("<|endoftext|>",)}, "tokenizer.special_tokens[0]", "end_of_text"),
        (
            SMALL,
            {"tokenizer": Unigram(vocab_size=303, special_tokens=("<0x0A>x", "<0x0A>"))},
            "tokenizer.special_tokens[1]",
            "one of the tokens that every Unigram has",
        ),
        (
            SMALL,
            {"tokenizer": Unigram(vocab_size=302, special_tokens=("<a>", "<b>", "<c>"))},
            "tokenizer.vocab_size",
            "302 leaves no room for 3 special_tokens beside what every Unigram has; use at least 303",
        ),
    ],
)
def test_what_an_objective_can_not_have_is_refused_with_what_would_work(recipe, changes, path, fix):
    with attrs.validators.disabled():
        wrong = changed(recipe, **changes)
    violations = found(wrong)

    assert list(violations) == [path]
    assert fix in violations[path]


def test_a_masked_recipe_may_mask_and_mix_as_it_likes():
    for objective in (
        MaskedLM(sequence_length=32, masking=SingleTokens(), mask_share=1.0, random_share=0.0),
        MaskedLM(sequence_length=32, masking=Spans(max_length=31)),
        MultiMaskLM(sequence_length=32, mask_share=0.7, random_share=0.3),
    ):
        assert found(changed(MASKED, objective=objective)) == {}
    # Words for encoders are no harm to a decoder.
    assert found(changed(SMALL, tokenizer=WordPiece(vocab_size=512))) == {}


def test_a_dense_recipe_may_go_without_perplexity():
    assert found(changed(SMALL, compression=(), evaluation=())) == {}


@given(recipes(), st.integers(2, 8))
def test_reduce_scatter_needs_a_sequence_that_the_tensor_ranks_can_share(recipe, tensor):
    recipe = changed(recipe, parallelism__tensor=tensor, parallelism__tensor_parallel_mode="reduce_scatter")
    assert ("objective.sequence_length" in found(recipe)) == (recipe.objective.sequence_length % tensor != 0)


@settings(suppress_health_check=[HealthCheck.filter_too_much])
@given(recipes(), st.integers(2, 8))
def test_a_vocabulary_of_any_size_splits_over_the_tensor_ranks(recipe, tensor):
    recipe = changed(recipe, parallelism__tensor=tensor)
    assume(not any(path in found(recipe) for path in ("parallelism.tensor", "model.make_vocab_size_divisible_by")))
    assert all(recipe.model.padded_vocab_size(size) % tensor == 0 for size in range(257, 400))
    assert math.gcd(recipe.model.num_attention_heads, tensor) == tensor
