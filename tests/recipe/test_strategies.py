"""What the strategies draw: every word that a user can write."""

import contextlib

import pytest
from hypothesis import Phase, find, given, settings
from hypothesis import strategies as st
from hypothesis.errors import NoSuchExample
from strategies import (
    SMALL_MODEL,
    a_task,
    adapters,
    augmenters,
    cleaners,
    divergences,
    hidden_states,
    lineage,
    machines,
    masking_tokenizers,
    objectives,
    prunings,
    recipe_sets,
    schemes,
    sections,
    stored,
)

import llmrecipe
from llmrecipe import Bert, Quantized, Trained, catalogue
from llmrecipe.recipe.names import words

drawn: set[str] = set()
depths: set[int] = set()
shared: set[str] = set()


def depth(model):
    return 1 + max(map(depth, model.parents), default=0)


ROOMS = catalogue.rooms()
PUBLIC = {name for name in llmrecipe.__all__ if isinstance(getattr(llmrecipe, name), type)}
PUBLIC.update(name for module in ROOMS.values() for name in module.__all__)


def missing():
    """What hasn't been drawn yet."""
    found = {*PUBLIC} - drawn
    if max(depths, default=0) < 3:
        found.add("a chain of three models")
    if len(shared) <= 5:
        found.add("values that recipes share")
    if "quantized of a model that goes on" not in shared:
        found.add("quantized of a model that goes on")
    return sorted(found)


def look_at_recipes(recipes, machine):
    for value in (*recipes, machine):
        drawn.update(type(word).__name__ for _, word in words(value, ""))
    models = [model for recipe in recipes for model in recipe.models]
    depths.update(map(depth, models))
    used = [{model.name for model in lineage(recipe.models)} for recipe in recipes]
    shared.update(name for index, names in enumerate(used) for other in used[:index] for name in names & other)
    for model in models:
        if isinstance(model, Quantized) and isinstance(model.model, Trained) and model.model.parents:
            shared.add("quantized of a model that goes on")


def masked(tokenizer):
    """What an encoder with such a tokenizer learns."""
    return objectives(64, Bert(hidden_size=64, num_layers=2, num_attention_heads=4), tokenizer)


@settings(max_examples=250)
@given(st.tuples(schemes, divergences, prunings(SMALL_MODEL.network), hidden_states, stored, sections))
def look_at_others(others):
    """As sections have them: few networks can have every scheme."""
    for value in others:
        drawn.update(type(word).__name__ for _, word in words(value, ""))


@settings(max_examples=100)
@given(cleaners, augmenters, st.tuples(a_task, adapters(SMALL_MODEL.network), masking_tokenizers.flatmap(masked)))
def look_at_rare_ones(clean, augment, others):
    """Few recipes have a word of each room."""
    for value in (*clean, *augment, *others):
        drawn.update(type(word).__name__ for _, word in words(value, ""))


@pytest.mark.filterwarnings("ignore:Generating overly large repr")
def test_every_public_word_is_drawn_and_chains_and_shared_values_are():
    look_at_others()
    look_at_rare_ones()
    once = settings(max_examples=500, phases=[Phase.generate])
    # It ends as soon as all has been drawn.
    with contextlib.suppress(NoSuchExample):
        find(st.tuples(recipe_sets(), machines), lambda value: look_at_recipes(*value) or not missing(), settings=once)
    assert missing() == []


def test_a_public_name_is_a_word_a_room_or_a_function_of_the_language():
    others = [name for name in llmrecipe.__all__ if not isinstance(getattr(llmrecipe, name), type)]
    assert sorted({*others} - set(ROOMS)) == ["evolve"]
