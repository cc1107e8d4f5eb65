import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import SMALL, SMALL_MODEL, lineage, recipe_sets, recipes

from llmrecipe import (
    Distilled,
    Mixture,
    Part,
    PretrainedModel,
    PretrainedTokenizer,
    Quantized,
    Recipe,
    augment,
    evolve,
    measure,
    scheme,
    source,
)
from llmrecipe.recipe.hessians import Hessians
from llmrecipe.recipe.kinds import Model, Task, Text, Tokenizer
from llmrecipe.recipe.measurement import Measurement
from llmrecipe.recipe.names import clashes, differences, named_values
from llmrecipe.recipe.predictions import Predictions
from llmrecipe.recipe.tokenized import TokenizedText


def alone(model, name="small", **changes):
    return Recipe(name=name, models=(model,), **changes)


def found(*recipes):
    return {violation.path: violation.reason for violation in clashes(recipes)}


def test_two_values_that_differ_are_told_apart_by_full_paths_with_both_values():
    further = evolve(SMALL_MODEL, name="further", start=SMALL_MODEL, tokenizer=None)
    quantized = Quantized(model=further, scheme=scheme.FP8())
    other = evolve(quantized, model__start__training__seed=8, scheme=scheme.W8A16(), model__start__text__shards=5)
    assert differences(quantized, other) == [
        "model.start.text.shards: 4 ≠ 5",
        "model.start.training.seed: 42 ≠ 8",
        "scheme: FP8(activations='dynamic', observer='minmax', rounding=Roun… ≠ "
        "W8A16(symmetric=True, observer='imatrix_mse', rounding=GPTQ…",
    ]
    assert differences(quantized, quantized) == []


@pytest.mark.parametrize(
    ("changes", "shown"),
    [
        ({"text": evolve(SMALL_MODEL.text, name="web", shards=9)}, "text: Corpus 'stdlib' ≠ Corpus 'web'"),
        ({"tokenizer__special_tokens": ("<a>",)}, "tokenizer.special_tokens: () ≠ ('<a>')"),
        (
            {"start": SMALL_MODEL},
            "start: Llama(hidden_size=64, num_layers=2, num_attention_heads=4, … ≠ Trained 'small-model'",
        ),
        ({"tokenizer": None}, "tokenizer: ByteLevelBPE 'tokenizer-bpe-512' ≠ None"),
    ],
)
def test_values_are_shown_at_a_readable_length(changes, shown):
    assert differences(SMALL_MODEL, evolve(SMALL_MODEL, **changes)) == [shown]


def test_values_of_two_classes_differ_as_a_whole():
    assert differences(SMALL_MODEL, SMALL_MODEL.text) == ["Trained 'small-model' ≠ Corpus 'stdlib'"]


def test_one_name_for_two_values_is_refused_with_both_paths_and_all_that_differs():
    other = evolve(SMALL_MODEL, training__seed=8, start__num_layers=3)
    assert found(SMALL, alone(other, "second")) == {
        "second.models[0]": "'small-model' is the name of this and of small.models[0], which differ: "
        "start.num_layers: 2 ≠ 3; training.seed: 42 ≠ 8; give one of them a name of its own"
    }


def test_all_models_share_one_namespace():
    further = evolve(SMALL_MODEL, name="further", start=SMALL_MODEL, tokenizer=None)
    rounded = Quantized(name="further", model=SMALL_MODEL, scheme=scheme.FP8())
    assert list(found(alone(further), alone(rounded, "second"))) == ["second.models[0]"]


@pytest.mark.parametrize(
    ("recipe", "path"),
    [
        (alone(evolve(SMALL_MODEL, name="other", text__shards=9), "other"), "other.models[0].text"),
        (
            alone(evolve(SMALL_MODEL, name="other", tokenizer__special_tokens=("<a>",)), "other"),
            "other.models[0].tokenizer",
        ),
        (
            alone(
                evolve(SMALL_MODEL, name="other", tokenizer=PretrainedTokenizer(path="a", name="stdlib-bpe-512")),
                "other",
            ),
            "other.models[0].tokenizer",
        ),
        (alone(SMALL_MODEL, "other", measures=(measure.Perplexity(max_tokens=99),)), "other.measures[0]"),
        (alone(evolve(SMALL_MODEL, name="other"), "small"), "small"),
        (
            alone(
                evolve(
                    SMALL_MODEL,
                    name="other",
                    text__name="more",
                    text__augment=(augment.Paraphrase(model=evolve(SMALL_MODEL, training__seed=1)),),
                ),
                "other",
            ),
            "other.models[0].text.augment[0].model",
        ),
    ],
)
def test_values_of_every_sort_have_names_of_their_own_wherever_they_are(recipe, path):
    assert list(found(SMALL, recipe)) == [path]


def test_a_name_that_is_made_from_another_is_not_named_as_well():
    """Where the corpus gets another name, tokenizer and tokens of it have others, too."""
    other = evolve(SMALL_MODEL, name="other", text__shards=9)
    rounded = Quantized(model=other, scheme=scheme.FP8())
    assert list(found(SMALL, alone(rounded, "other"))) == ["other.models[0].model.text"]


def test_names_that_happen_to_be_made_alike_are_refused():
    part = Part(corpus=evolve(SMALL_MODEL.text, name="a"))
    mixture = Mixture(parts=(part, Part(corpus=evolve(SMALL_MODEL.text, name="b"))))
    one = evolve(SMALL_MODEL, name="one", text=mixture)
    two = evolve(SMALL_MODEL, name="two", text__name="a-b")
    assert list(found(alone(one), alone(two, "second"))) == ["second.models[0].text"]


def test_a_clash_within_a_recipe_is_one_of_its_violations():
    twice = Recipe(name="small", models=(SMALL_MODEL, evolve(SMALL_MODEL, training__seed=8)))
    assert list(found(twice)) == ["small.models[1]"]


def test_an_equal_value_is_the_same_wherever_it_is_from():
    again = evolve(evolve(SMALL, models=tuple(evolve(model) for model in SMALL.models)), name="again")
    assert found(SMALL, again, SMALL) == {}


def test_a_third_value_of_a_name_is_named_and_a_second_time_of_it_is_not():
    others = [evolve(SMALL_MODEL, training__seed=seed) for seed in (8, 9, 8)]
    assert list(found(SMALL, *(alone(model, f"r{index}") for index, model in enumerate(others)))) == [
        "r0.models[0]",
        "r1.models[0]",
    ]


@settings(max_examples=25)
@given(recipe_sets())
def test_recipes_that_share_values_have_no_clash_in_any_order(recipes):
    assert found(*recipes) == found(*reversed(recipes)) == {}


@given(recipes())
def test_everything_that_has_a_name_is_among_the_named_values_after_what_it_is_made_from(recipe):
    values = [value for _, value in named_values(recipe)]
    models = list(lineage(recipe.models))
    assert all(model in values for model in models)
    assert all(model.vocabulary in values for model in models)
    assert all(values.index(parent) < values.index(model) for model in models for parent in model.parents)
    for model in models:
        if isinstance(model, PretrainedModel):
            continue
        assert model.training_text is None or model.training_text in values
        if model.task is not None:
            assert model.task in values
            continue
        assert any(isinstance(value, TokenizedText) and value.tokenizer == model.vocabulary for value in values)
    measurements = [value for value in values if isinstance(value, Measurement)]
    assert len(measurements) == sum(each.is_of(model) for model in recipe.models for each in recipe.measures)
    assert recipe in values
    stored = [Predictions.of(model) for model in models if isinstance(model, Distilled) and model.teacher_logits]
    assert all(values.index(each.teacher) < values.index(each) for each in stored)
    known = (Recipe, Model, Task, Text, Tokenizer, TokenizedText, Predictions, Hessians, Measurement)
    assert all(isinstance(value, known) for value in values)


def test_the_paths_of_named_values_lead_to_them():
    paths = {path: value for path, value in named_values(SMALL) if isinstance(value, Model | Text | Tokenizer)}
    assert list(paths) == ["small.models[0].text", "small.models[0].tokenizer", "small.models[0]", "small.models[1]"]
    assert paths["small.models[0].tokenizer"] == SMALL_MODEL.vocabulary


def test_a_hundred_recipes_are_compared_in_well_under_a_second():
    def variant(number):
        model = evolve(SMALL_MODEL, name=f"m{number}", training__seed=number, text__source=source.PythonStdlib())
        further = evolve(model, name=f"f{number}", start=model, tokenizer=None)
        models = (SMALL_MODEL, model, further, Quantized(model=further, scheme=scheme.FP8()))
        return Recipe(name=f"r{number}", models=models)

    recipes = [variant(number) for number in range(100)]
    began = time.process_time()
    assert found(*recipes) == {}
    assert time.process_time() - began < 0.7


@given(st.integers(0, 99))
def test_a_difference_of_one_field_is_found(seed):
    other = evolve(SMALL_MODEL, training__seed=seed)
    assert len(differences(SMALL_MODEL, other)) == (seed != SMALL_MODEL.training.seed)
