"""What the strategies draw: every word that a user can write."""

from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import (
    SMALL_MODEL,
    cleaners,
    divergences,
    hidden_states,
    lineage,
    machines,
    prunings,
    recipe_sets,
    schemes,
    sections,
    stored,
)

import llmrecipe
from llmrecipe import Quantized, Trained, catalogue
from llmrecipe.recipe.names import words

drawn: set[str] = set()
depths: set[int] = set()
shared: set[str] = set()


def depth(model):
    return 1 + max(map(depth, model.parents), default=0)


@settings(max_examples=500)
@given(recipe_sets(), machines)
def collect(recipes, machine):
    for value in (*recipes, machine):
        drawn.update(type(word).__name__ for _, word in words(value, ""))
    models = [model for recipe in recipes for model in recipe.models]
    depths.update(map(depth, models))
    used = [{model.name for model in lineage(recipe.models)} for recipe in recipes]
    shared.update(name for index, names in enumerate(used) for other in used[:index] for name in names & other)
    for model in models:
        if isinstance(model, Quantized) and isinstance(model.model, Trained) and model.model.parents:
            shared.add("quantized of a model that goes on")


@settings(max_examples=500)
@given(st.tuples(schemes, divergences, prunings(SMALL_MODEL.network), hidden_states, stored, sections), cleaners)
def collect_by_themselves(others, clean):
    """As sections have them: few networks can have every scheme, and few recipes have a word of each room."""
    for value in (*others, *clean):
        drawn.update(type(word).__name__ for _, word in words(value, ""))


def test_every_public_word_is_drawn_and_chains_and_shared_values_are():
    collect()
    collect_by_themselves()
    modules = catalogue.rooms().values()
    public = {name for name in llmrecipe.__all__ if isinstance(getattr(llmrecipe, name), type)}
    public |= {name for module in modules for name in module.__all__}
    never = sorted(public - drawn)
    assert never == []
    assert max(depths) >= 3
    assert len(shared) > 5
    assert "quantized of a model that goes on" in shared


def test_a_public_name_is_a_word_a_room_or_a_function_of_the_language():
    others = [name for name in llmrecipe.__all__ if not isinstance(getattr(llmrecipe, name), type)]
    assert sorted({*others} - set(catalogue.rooms())) == ["evolve"]
