import re

import attrs
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from strategies import SMALL, recipes, sections

from llmrecipe import AdamW, Recipe, Runtime, codec
from llmrecipe.errors import RecipeError
from llmrecipe.sections import SECTION_OF_KIND


def refusals(data, cls=Recipe):
    with pytest.raises(RecipeError) as caught:
        codec.structure(data, cls, "small")
    return {violation.path: violation.reason for violation in caught.value.violations}


def changed(*changes):
    """The plain data of SMALL with values put at dotted paths; a value of `...` deletes."""
    data = codec.unstructure(SMALL)
    for path, value in changes:
        *folders, last = re.findall(r"\w+", path)
        inner = data
        for key in folders:
            inner = inner[int(key) if isinstance(inner, list) else key]
        if value is ...:
            del inner[last]
        else:
            inner[int(last) if isinstance(inner, list) else last] = value
    return data


def leaves(data, path="small"):
    """Paths of all plain values, tags left out, with the container and the key that hold them."""
    for key, value in data.items() if isinstance(data, dict) else enumerate(data):
        inner = f"{path}.{key}" if isinstance(data, dict) else f"{path}[{key}]"
        if isinstance(value, dict | list):
            yield from leaves(value, inner)
        elif key != "type":
            yield inner, data, key


def holds_every_field(value, data):
    if isinstance(value, tuple):
        return len(value) == len(data) and all(map(holds_every_field, value, data))
    if not attrs.has(type(value)):
        return value == data
    return set(data) - {"type"} == {field.name for field in attrs.fields(type(value))} and all(
        holds_every_field(getattr(value, field.name), data[field.name]) for field in attrs.fields(type(value))
    )


@given(recipes())
def test_a_recipe_survives_yaml_exactly(recipe):
    text = yaml.safe_dump(codec.unstructure(recipe))
    assert codec.structure(yaml.safe_load(text), Recipe, recipe.name) == recipe


@given(sections)
def test_a_section_survives_yaml_exactly(section):
    text = yaml.safe_dump(codec.unstructure(section))
    assert codec.structure(yaml.safe_load(text), type(section), "section") == section


@given(recipes())
def test_every_field_is_written_defaults_included(recipe):
    assert holds_every_field(recipe, codec.unstructure(recipe))


def test_members_of_unions_carry_their_tag_and_others_none():
    data = codec.unstructure(SMALL)
    assert data["training"]["optimizer"]["type"] == "adamw"
    assert data["training"]["duration"] == {"type": "steps", "count": 10}
    assert data["model"]["intermediate_size"]["type"] == "ratio"
    assert [measure["type"] for measure in data["evaluation"]] == ["perplexity", "samples"]
    assert not any("type" in data[name] for name in ("training", "parallelism", "runtime"))


def test_tags_are_unique_in_the_whole_language():
    tags = [value.tag for value in vars(__import__("llmrecipe")).values() if attrs.has(value)]
    assert len(tags) == len(set(tags)) > 20
    assert all(kind == section.tag for kind, section in SECTION_OF_KIND.items())


def test_equal_recipes_give_equal_bytes_however_a_number_was_typed():
    typed = attrs.evolve(
        SMALL, training=attrs.evolve(SMALL.training, optimizer=AdamW(learning_rate=1), clip_grad_norm=2)
    )
    other = attrs.evolve(
        SMALL, training=attrs.evolve(SMALL.training, optimizer=AdamW(learning_rate=1.0), clip_grad_norm=2.0)
    )
    assert yaml.safe_dump(codec.unstructure(typed)) == yaml.safe_dump(codec.unstructure(other))


@given(recipes(), st.data())
def test_values_of_a_wrong_type_are_refused_at_their_paths_all_at_once(recipe, data):
    plain = codec.unstructure(attrs.evolve(recipe, name="small"))
    broken = data.draw(
        st.lists(st.sampled_from(list(leaves(plain))), min_size=1, max_size=3, unique_by=lambda leaf: leaf[0])
    )
    for _, container, key in broken:
        container[key] = [{}]
    assert set(refusals(plain)) == {path for path, _, _ in broken}


@given(recipes(), st.data())
def test_an_unknown_key_is_refused_wherever_it_is(recipe, data):
    plain = codec.unstructure(attrs.evolve(recipe, name="small"))
    mappings = {
        path.rpartition(".")[0]: container for path, container, _ in leaves(plain) if isinstance(container, dict)
    }
    path = data.draw(st.sampled_from(sorted(mappings)))
    mappings[path]["colour"] = 1
    assert set(refusals(plain)) == {f"{path}.colour"}


def test_a_misspelt_field_is_refused_with_the_nearest_and_the_missing_one_is_named():
    found = refusals(changed(("model.hidden_size", ...), ("model.hiden_size", 64)))
    assert found["small.model.hiden_size"].startswith(
        "no such field; did you mean 'hidden_size'? (known: hidden_size, "
    )
    assert found["small.model.hidden_size"] == "is missing; must be int"


def test_an_unknown_tag_is_refused_with_the_nearest():
    found = refusals(changed(("training.optimizer.type", "adamv")))
    assert found == {
        "small.training.optimizer.type": "no such type 'adamv' (str); did you mean 'adamw'? (known: adamw, sgd)"
    }


def test_a_missing_tag_is_refused_with_the_choices():
    assert refusals(changed(("training.optimizer.type", ...))) == {
        "small.training.optimizer.type": "is missing; one of adamw, sgd"
    }


@pytest.mark.parametrize(
    ("path", "value", "reason"),
    [
        ("model.num_layers", "3", "must be int, got '3' (str)"),
        ("model.num_layers", True, "must be int, got True (bool)"),
        ("model.num_layers", 3.0, "must be int, got 3.0 (float)"),
        ("model.num_layers", None, "must be int, got None"),
        ("model.tie_word_embeddings", 1, "must be bool, got 1 (int)"),
        ("training.clip_grad_norm", "1e-3", "must be a finite float or None, got '1e-3' (str); write 0.001"),
        ("training.optimizer.eps", "1e-9", "must be a finite float, got '1e-9' (str); write 1.0e-09"),
        ("training.optimizer.eps", float("nan"), "must be a finite float, got nan (float)"),
        ("training.optimizer.eps", 10**400, "must be a finite float, got 1000000"),
        (
            "training.optimizer",
            "adamw",
            "must be a mapping with `type: adamw` or a mapping with `type: sgd`, got 'adamw'",
        ),
        ("model.intermediate_size", "wide", "must be int or a mapping with `type: ratio`, got 'wide' (str)"),
        ("parallelism.zero_stage", 2, "must be 0 or 1, got 2 (int)"),
        ("parallelism.zero_stage", True, "must be 0 or 1, got True (bool)"),
        ("evaluation[1].prompts", "def ", "must be a list, each str, got 'def ' (str)"),
        ("training", [], "must be a mapping with the fields of Training, got [] (list)"),
        ("corpus", [], "must be a mapping with `type: corpus` or a mapping with `type: mixture`, got [] (list)"),
    ],
)
def test_nothing_is_coerced(path, value, reason):
    found = refusals(changed((path, value)))
    assert list(found) == [f"small.{path}"]
    assert found[f"small.{path}"].startswith(reason)


def test_a_written_hint_about_a_number_is_read_as_that_number():
    for number in ("1e-9", "1e-3", "3E20", "1e5"):
        reason = refusals(changed(("training.optimizer.eps", number)))["small.training.optimizer.eps"]
        assert yaml.safe_load(reason.rpartition("write ")[2]) == float(number)


def test_an_int_counts_as_a_float():
    assert codec.structure(changed(("training.optimizer.eps", 1)), Recipe, "small").training.optimizer.eps == 1.0


def test_what_validators_say_reaches_the_user_with_all_other_violations():
    found = refusals(
        changed(
            ("training.optimizer.learning_rate", -1.0),
            ("training.global_batch_size", 0),
            ("evaluation[1].prompts", []),
            ("corpus.shards", "4"),
            ("runtime.devise", "cpu"),
        )
    )
    assert found["small.training.optimizer.learning_rate"] == "must be greater than 0, got -1.0"
    assert found["small.training.global_batch_size"] == "must be at least 1, got 0"
    assert found["small.evaluation[1].prompts"] == "must not be empty"
    assert found["small.corpus.shards"] == "must be int, got '4' (str)"
    assert found["small.runtime.devise"].startswith("no such field; did you mean 'device'?")
    assert len(found) == 5


def test_a_field_with_a_default_may_be_left_out():
    assert codec.structure({"device": "cpu"}, Runtime, "runtime.small") == Runtime(device="cpu")


@pytest.mark.parametrize("data", [None, [], "recipe", 3])
def test_data_that_is_no_mapping_is_refused(data):
    assert "must be a mapping" in refusals(data)["small"]
