import re

import attrs
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from strategies import SMALL_MODEL, machines, sections, train_section, trained_models

from llmrecipe import Machine, codec, evolve, measure, optimizer
from llmrecipe.errors import RecipeError
from llmrecipe.recipe.kinds import Text
from llmrecipe.recipe.schema import UNWRITTEN, Word, define, kind, members
from llmrecipe.sections import MeasureSection, PrepareSection, Section, TrainSection, section_of_kind

SMALL = train_section(SMALL_MODEL)
train_sections = trained_models().map(train_section)


def refusals(data, cls=TrainSection):
    with pytest.raises(RecipeError) as caught:
        codec.structure(data, cls, "small")
    return {violation.path: violation.reason for violation in caught.value.violations}


def changed(*changes, section=SMALL):
    """The plain data of a section with values put at dotted paths; a value of `...` deletes."""
    data = codec.unstructure(section)
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
    # What is given may stand under another name than the value made of it.
    names = {field.alias: field.name for field in attrs.fields(type(value)) if field.metadata != UNWRITTEN}
    return set(data) - {"type"} == set(names) and all(
        holds_every_field(getattr(value, name), data[alias]) for alias, name in names.items()
    )


@given(sections)
def test_a_section_survives_yaml_exactly(section):
    text = yaml.safe_dump(codec.unstructure(section))
    assert codec.structure(yaml.safe_load(text), type(section), "section") == section


@given(machines)
def test_a_machine_survives_yaml_exactly(machine):
    text = yaml.safe_dump(codec.unstructure(machine))
    assert codec.structure(yaml.safe_load(text), Machine, "machine") == machine


@given(sections)
def test_every_field_is_written_defaults_included(section):
    assert holds_every_field(section, codec.unstructure(section))


def test_what_only_the_planner_reads_is_not_written():
    section = MeasureSection(measure=measure.Perplexity(name="longer", text=SMALL_MODEL.text))
    assert codec.unstructure(section)["measure"] == {"type": "perplexity", "max_tokens": 100_000}


def test_members_of_unions_carry_their_tag_and_others_none():
    data = codec.unstructure(SMALL)
    assert data["training"]["optimizer"]["type"] == "adamw"
    assert data["training"]["duration"] == {"type": "steps", "count": 10}
    assert data["network"]["intermediate_size"]["type"] == "ratio"
    assert (data["type"], data["network"]["type"]) == ("train", "llama")
    assert not any("type" in data[name] for name in ("training", "parallelism"))


def test_tags_are_unique_among_the_words_of_a_kind():
    @kind
    class Colour(Word):
        """A colour."""

    @define("red")
    class Red(Colour):
        """Red."""

    with pytest.raises(TypeError, match=r"the tag 'red' is that of .*Red, also a Colour; give one of them another"):
        define("red")(type("Crimson", (Colour,), {}))
    assert list(members(Colour)) == ["red"]
    assert {cls.tag for cls in members(Text).values()} == {"corpus", "mixture"}
    assert all(section_of_kind(tag) is section for tag, section in members(Section).items())


def test_equal_recipes_give_equal_bytes_however_a_number_was_typed():
    typed, other = (
        evolve(SMALL, training__optimizer=optimizer.AdamW(learning_rate=one), training__clip_grad_norm=two)
        for one, two in ((1, 2), (1.0, 2.0))
    )
    assert yaml.safe_dump(codec.unstructure(typed)) == yaml.safe_dump(codec.unstructure(other))


@given(train_sections, st.data())
def test_values_of_a_wrong_type_are_refused_at_their_paths_all_at_once(section, data):
    plain = codec.unstructure(section)
    broken = data.draw(
        st.lists(st.sampled_from(list(leaves(plain))), min_size=1, max_size=3, unique_by=lambda leaf: leaf[0])
    )
    for _, container, key in broken:
        container[key] = [{}]
    assert set(refusals(plain)) == {path for path, _, _ in broken}


@given(train_sections, st.data())
def test_an_unknown_key_is_refused_wherever_it_is(section, data):
    plain = codec.unstructure(section)
    mappings = {
        path.rpartition(".")[0]: container for path, container, _ in leaves(plain) if isinstance(container, dict)
    }
    path = data.draw(st.sampled_from(sorted(mappings)))
    mappings[path]["colour"] = 1
    assert set(refusals(plain)) == {f"{path}.colour"}


def test_a_misspelt_field_is_refused_with_the_nearest_and_the_missing_one_is_named():
    found = refusals(changed(("network.hidden_size", ...), ("network.hiden_size", 64)))
    assert found["small.network.hiden_size"].startswith(
        "no such field; did you mean 'hidden_size'? (known: hidden_size, "
    )
    assert found["small.network.hidden_size"] == "is missing; must be int"


def test_an_unknown_tag_is_refused_with_the_nearest():
    found = refusals(changed(("training.optimizer.type", "adamv")))
    assert found == {
        "small.training.optimizer.type": "no such type 'adamv' (str); did you mean 'adamw'? (known: adamw, muon, sgd)"
    }


def test_a_missing_tag_is_refused_with_the_choices():
    assert refusals(changed(("training.optimizer.type", ...))) == {
        "small.training.optimizer.type": "is missing; one of adamw, muon, sgd"
    }


@pytest.mark.parametrize(
    ("path", "value", "reason"),
    [
        ("network.num_layers", "3", "must be int, got '3' (str)"),
        ("network.num_layers", True, "must be int, got True (bool)"),
        ("network.num_layers", 3.0, "must be int, got 3.0 (float)"),
        ("network.num_layers", None, "must be int, got None"),
        ("network.tie_word_embeddings", 1, "must be bool, got 1 (int)"),
        ("training.clip_grad_norm", "1e-3", "must be a finite float or None, got '1e-3' (str); write 0.001"),
        ("training.optimizer.eps", "1e-9", "must be a finite float, got '1e-9' (str); write 1.0e-09"),
        ("training.optimizer.eps", float("nan"), "must be a finite float, got nan (float)"),
        ("training.optimizer.eps", 10**400, "must be a finite float, got 1000000"),
        (
            "training.optimizer",
            "adamw",
            "must be a mapping with `type: adamw` or a mapping with `type: muon` or a mapping with `type: sgd`, "
            "got 'adamw'",
        ),
        ("network.intermediate_size", "wide", "must be int or a mapping with `type: ratio`, got 'wide' (str)"),
        ("parallelism.zero_stage", 2, "must be 0 or 1 or 3, got 2 (int)"),
        ("parallelism.zero_stage", True, "must be 0 or 1 or 3, got True (bool)"),
        (
            "training.optimizer.no_decay",
            "norms",
            "must be a list, each 'norms' or 'biases' or 'embeddings', got 'norms'",
        ),
        ("training", [], "must be a mapping with the fields of Training, got [] (list)"),
        (
            "training.duration",
            [],
            "must be a mapping with `type: tokens` or a mapping with `type: steps` or a mapping with `type: epochs`, "
            "got [] (list)",
        ),
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
    assert codec.structure(changed(("training.optimizer.eps", 1)), TrainSection, "small").training.optimizer.eps == 1.0


def test_what_validators_say_reaches_the_user_with_all_other_violations():
    found = refusals(
        changed(
            ("training.optimizer.learning_rate", -1.0),
            ("training.global_batch_size", 0),
            ("training.optimizer.no_decay", ["norms", "norms"]),
            ("parallelism.data", "4"),
            ("parallelism.tenser", 1),
        )
    )
    assert found["small.training.optimizer.learning_rate"] == "must be greater than 0, got -1.0"
    assert found["small.training.global_batch_size"] == "must be between 1 and 100,000,000, got 0"
    assert found["small.training.optimizer.no_decay"] == "names 'norms' 2 times; keep one"
    assert found["small.parallelism.data"] == "must be int, got '4' (str)"
    assert found["small.parallelism.tenser"].startswith("no such field; did you mean 'tensor'?")
    assert len(found) == 5


def test_a_field_with_a_default_may_be_left_out():
    assert codec.structure({"device": "cpu"}, Machine, "machine.default") == Machine(device="cpu")


@pytest.mark.parametrize("data", [None, [], "recipe", 3])
def test_data_that_is_no_mapping_is_refused(data):
    assert "must be a mapping" in refusals(data)["small"]


def test_a_tuple_and_a_text_in_a_kind_are_told_what_they_have_to_be():
    prepare = {"type": "prepare", "source": "data", "clean": "fix", "heldout": 0.05, "shards": 4}
    found = refusals(prepare, PrepareSection)
    assert found["small.source"].startswith("must be a mapping with `type: python_stdlib` or a mapping with `type: ")
    assert found["small.clean"].startswith("must be a list, each a mapping with `type: fix_unicode`")
    assert found["small.heldout"].startswith("must be a mapping with `type: fraction` or a mapping with `type: python")
    assert len(found) == 3
