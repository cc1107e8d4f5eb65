"""Files that people and the planner write together: what is written reads back the same everywhere, the rest stays."""

import math
import string
from pathlib import Path

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st
from ruamel.yaml import YAML

from llmrecipe.errors import PlanError
from llmrecipe.yamltext import YamlText, dump

TRICKY = [
    "1e3",
    "1e-3",
    "0o17",
    "0x1f",
    "017",
    "1_000",
    "1:30",
    "yes",
    "Off",
    "y",
    "null",
    "~",
    "",
    " a",
    "a ",
    "=",
    "<<",
]
TRICKY += [
    "2001-01-01",
    "1.",
    ".5",
    ".inf",
    "NaN",
    "- a",
    "a: b",
    "a #b",
    "#",
    "&a",
    "*a",
    "!a",
    "%a",
    "@a",
    "`",
    "[",
    "{",
]
TRICKY += [
    "a\nb",
    "\n",
    "\t",
    "é",
    "日本",
    "\u2028",
    "\x85",
    "\x7f",
    "\x00",
    "\ufeff",
    "😀",
    "'",
    '"',
    "\\",
    "---",
    "...",
    "?",
]

texts = st.text(st.characters(exclude_categories=("Cs",))) | st.sampled_from(TRICKY)
scalars = texts | st.booleans() | st.none() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
plain_data = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4), max_leaves=12
)


def same(one, other) -> bool:
    """Equal, and of the same types all the way down: True isn't 1, 1 isn't 1.0, 0.0 isn't -0.0."""
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, float):
        return type(other) is float and one == other and math.copysign(1, one) == math.copysign(1, other)
    return type(one) is type(other) and one == other


@given(st.dictionaries(texts, plain_data, min_size=1, max_size=4))
@example({"a": 1e-3, "b": 1e22, "c": 1e-300, "d": 5e-324, "e": -0.0, "f": 1e16})
@example({"a": TRICKY, **dict.fromkeys(TRICKY, 1)})
def test_pyyaml_and_ruamel_read_back_exactly_what_was_written(data):
    text = dump(data)
    assert same(data, yaml.safe_load(text))
    assert same(data, YAML(typ="safe", pure=True).load(text))


@given(st.lists(st.text(string.ascii_letters + " /.-=", min_size=60, max_size=300), min_size=1, max_size=3))
def test_long_texts_stay_on_one_line(items):
    assert len(dump({"a": items}).splitlines()) == 1 + len(items)


HAND = """\
%YAML 1.1
---
# a comment above   # with another

vars: &v   [x,  y]          # trailing
other:
    nested : {a: 1,b: 2}

    # inside
    text: |
      # not a comment
      last line


tail: !!str 7
# the end
"""


def edit(text: str, section, names, entries) -> str:
    return YamlText("f.yaml", text).replace(section, names, entries).text


def test_a_new_section_is_added_at_the_end_and_every_byte_before_it_stays():
    for section, entries in ((None, {"new": {"a": 1}}), ("new", {"a": 1}), ("new", ["a"])):
        edited = edit(HAND, section, (), entries)
        assert edited.startswith(HAND)
        assert yaml.safe_load(edited)["new"] in ({"a": 1}, ["a"])


def test_an_entry_is_added_to_a_section_in_its_own_indentation():
    text = "stages:\n      # mine\n      a:\n          cmd: x\n# after\nplots: # p\n   - one.csv\n"
    edited = edit(text, "stages", (), {"b": {"cmd": "z"}})
    assert edited == text.replace("      # mine", "      b:\n        cmd: z\n\n      # mine")
    edited = edit(text, "plots", (), ["two.csv", {"three": {"x": "step"}}])
    assert edited == text.replace("   - one.csv", "   - two.csv\n   - three:\n       x: step\n   - one.csv")


def test_entries_are_replaced_where_they_are_and_comments_around_them_stay():
    text = "# top\nmine: 1\n# about old\nold:\n  a: 1\n\nold2:\n  b: 2\n\n# about yours\nyours: [1,   2]\n"
    edited = edit(text, None, {"old", "old2"}, {"new": {"c": 3}})
    assert edited == "# top\nmine: 1\n# about old\nnew:\n  c: 3\n\n# about yours\nyours: [1,   2]\n"


def test_replacing_twice_gives_the_same_bytes():
    once = edit(HAND, "stages", (), {"a": {"cmd": "x"}, "b": {"cmd": "y"}})
    assert edit(once, "stages", {"a", "b"}, {"a": {"cmd": "x"}, "b": {"cmd": "y"}}) == once


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_a_missing_last_newline_and_foreign_line_ends_do_no_harm(newline):
    text = f"a: 1{newline}b:{newline}  - x"
    edited = edit(text, None, {"a"}, {"c": 1})
    assert edited.endswith(f"b:{newline}  - x\n")
    assert yaml.safe_load(edited) == {"b": ["x"], "c": 1}


keys = st.text("abc", min_size=1, max_size=3)
comments = st.sampled_from(["", "\n", "# c\n", "\n\n  # indented: c\n\n", "# - d\n# e: f\n"])
values = st.sampled_from(
    ["1", "x  # c", "[1,\n  2]", "\n  - p\n  -   q", "\n- p\n- q", "|\n  t\n  # u", ">-\n  t\n\n  u", "{}"]
)
values |= st.sampled_from(["!!map\n  k: v", '"two\n  lines"', "\n    deep:\n        deeper: 1\n    # c\n    next: 2"])


@given(st.dictionaries(keys, st.tuples(comments, values, comments), min_size=1, max_size=6), st.data())
def test_what_is_not_replaced_keeps_its_lines(parts, data):
    # Independent of the module's own reading: the file is put together from parts, so the lines of each are known.
    old = data.draw(st.sets(st.sampled_from(list(parts)))) & {
        name for name, part in parts.items() if "#" not in part[1]
    }
    kept = {name: f"{name}: {value}\n" for name, (_, value, _) in parts.items() if name not in old}
    text = "".join(f"{before}{name}: {value}\n{after}" for name, (before, value, after) in parts.items())
    edited = edit(text, None, old, {"NEW": {"a": 1}})
    assert all(block in edited for block in kept.values())
    assert edited.count("#") == text.count("#")
    assert yaml.safe_load(edited) == {
        **{k: v for k, v in yaml.safe_load(text).items() if k not in old},
        "NEW": {"a": 1},
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: [\n", r"f\.yaml, line \d: not YAML"),
        ("a: 1\n\tb: 2\n", r"f\.yaml, line 2: not YAML"),
        ("a: 1\nb: \x01\n", r"f\.yaml, line 2: not YAML"),
        ("- a\n- b\n", r"f\.yaml, line 1: must be a mapping"),
        ("# c\njust text\n", r"f\.yaml, line 2: must be a mapping"),
        ("a: 1\nb: 2\na: 3\n", r"f\.yaml, line 3: 'a' is here for the second time"),
        ("\n{a: 1}\n", r"f\.yaml, line 2: write this in block form"),
        ("a: 1\n---\nb: 1\n", r"f\.yaml, line 2: not YAML: but found another document"),
    ],
)
def test_a_file_that_can_not_be_understood_is_named_with_its_line(tmp_path, monkeypatch, text, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "f.yaml").write_text(text)
    with pytest.raises(PlanError, match=message):
        YamlText.read(Path("f.yaml"))


def test_a_file_that_is_not_utf8_is_named(tmp_path):
    (tmp_path / "f.yaml").write_bytes("a: é".encode("latin-1"))
    with pytest.raises(PlanError, match=r"f\.yaml: not UTF-8"):
        YamlText.read(tmp_path / "f.yaml")


def test_a_section_in_flow_form_is_refused_with_its_line():
    with pytest.raises(PlanError, match=r"f\.yaml, line 2: write this in block form"):
        edit("a: 1\nstages: {b: {cmd: x}}\n", "stages", (), {"c": {}})


def test_an_alias_to_a_replaced_entry_is_refused():
    with pytest.raises(PlanError, match=r"f\.yaml: .* without anchors"):
        edit("old: &x {a: 1}\nmine: *x\n", None, {"old"}, {"new": 1})
