"""What a Python user may put in a field: it is stored plainly, or refused in plain words."""

import decimal
import enum
import fractions
import gc
import pathlib
from collections import namedtuple
from typing import Literal, get_args

import attrs
import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from strategies import SMALL, SMALL_MODEL

from llmrecipe import codec, gate, measure, optimizer, source
from llmrecipe.recipe import checks
from llmrecipe.recipe.schema import FieldError, Word, define, own_violations


class Name(str, enum.Enum):  # noqa: UP042
    """A text."""

    A = "a"


class Kind(enum.StrEnum):
    """A text, too."""

    A = "a"


class Number(enum.IntEnum):
    """A whole number."""

    ONE = 1


class Half(float, enum.Enum):
    """A number."""

    HALF = 0.5


class Plain(enum.Enum):
    """Neither."""

    A = "a"


class MyText(str):
    """A text of a class of its own."""


Pair = namedtuple("Pair", "left right")


@define("anything")
class Anything(Word):
    """A word with a field of each type."""

    text: str = "a"
    number: int = 1
    share: float = 1.0
    flag: bool = True
    maybe: float | None = None
    choice: Literal["a", "b"] = "a"
    texts: tuple[str, ...] = ()
    numbers: tuple[int, ...] = ()
    shares: tuple[float, ...] = ()
    either: tuple[str, ...] | int | None = None


def holding(name, value):
    """A word with a value as the loader lets a user give it, and what is wrong with it."""
    with attrs.validators.disabled():
        word = Anything(**{name: value})
    return word, [violation.reason for violation in own_violations(word, "word")]


STORED = [
    ("text", Name.A, "a"),
    ("text", Kind.A, "a"),
    ("text", MyText("a"), "a"),
    ("text", np.str_("a"), "a"),
    ("text", pathlib.Path("data") / "a.txt", "data/a.txt"),
    ("text", pathlib.PurePosixPath("a"), "a"),
    ("number", Number.ONE, 1),
    ("number", np.int64(1), 1),
    ("number", np.uint8(1), 1),
    ("number", np.array(1), 1),
    ("share", 1, 1.0),
    ("share", Number.ONE, 1.0),
    ("share", Half.HALF, 0.5),
    ("share", np.float32(0.5), 0.5),
    ("share", np.float64(0.1), 0.1),
    ("share", np.int32(2), 2.0),
    ("maybe", np.float16(0.5), 0.5),
    ("maybe", 3, 3.0),
    ("flag", np.bool_(False), False),
    ("choice", Name.A, "a"),
    ("texts", (Name.A, pathlib.Path("b"), np.str_("c")), ("a", "b", "c")),
    ("texts", Pair("a", "b"), ("a", "b")),
    ("texts", np.array(["a", "b"]), ("a", "b")),
    ("numbers", (Number.ONE, np.int8(2)), (1, 2)),
    ("numbers", np.arange(3), (0, 1, 2)),
    ("shares", (1, np.float32(0.5), Half.HALF), (1.0, 0.5, 0.5)),
    ("shares", np.linspace(0, 1, 3), (0.0, 0.5, 1.0)),
    ("either", (np.str_("a"), Kind.A), ("a", "a")),
    ("either", Number.ONE, 1),
]
REFUSED = [
    ("text", Plain.A, "must be str, got <Plain.A: 'a'> (tests.recipe.test_values.Plain)"),
    ("text", b"a", "must be str, got b'a' (bytes)"),
    ("text", 3, "must be str, got 3 (int)"),
    ("number", 1.0, "must be int, got 1.0 (float)"),
    ("number", np.float64(1), "must be int, got 1.0 (float)"),
    ("text", "a\ud800", r"must be str, got 'a\ud800' (str), which holds half of a surrogate pair, and so is no text"),
    ("texts", ("a", "\udfff"), r"must be a tuple of str, got ('a', '\udfff') (tuple), which holds half"),
    ("either", ("\udc80",), r"must be a tuple of str or int or None, got ('\udc80',) (tuple), which holds half"),
    ("number", 2**63, "must be int, got 9223372036854775808 (int), which has more than 64 bits"),
    ("number", True, "must be int, got True (bool)"),
    ("number", np.True_, "must be int, got True (bool)"),
    ("share", fractions.Fraction(1, 3), "must be a finite float, got Fraction(1, 3) (fractions.Fraction)"),
    ("share", decimal.Decimal("0.1"), "must be a finite float, got Decimal('0.1') (decimal.Decimal)"),
    ("share", float("inf"), "must be a finite float, got inf (float)"),
    ("share", np.float32("nan"), "must be a finite float, got nan (float)"),
    ("share", 10**400, "must be a finite float, got 1000"),
    ("share", 1j, "must be a finite float, got 1j (complex)"),
    ("share", np.longdouble(1), "must be a finite float, got np.longdouble('1.0') (numpy.longdouble)"),
    ("share", np.array([1.0]), "must be a finite float, got [1.0] (list)"),
    ("share", "0.5", "must be a finite float, got '0.5' (str)"),
    ("flag", 1, "must be bool, got 1 (int)"),
    ("texts", ["a"], "must be a tuple of str, got ['a'] (list); write (…) in place of […]"),
    ("texts", "a", "must be a tuple of str, got 'a' (str); a tuple of one needs a comma: (…,)"),
    ("texts", {"a"}, "must be a tuple of str, got {'a'} (set)"),
    ("texts", (each for each in "a"), "must be a tuple of str, got <generator"),
    ("numbers", np.eye(2), "must be a tuple of int, got ([1.0, 0.0], [0.0, 1.0]) (tuple)"),
    ("numbers", range(3), "must be a tuple of int, got range(0, 3) (range)"),
]


@pytest.mark.parametrize(("name", "value", "stored"), STORED)
def test_what_means_a_plain_value_is_stored_as_one(name, value, stored):
    word, wrong = holding(name, value)
    kept = getattr(word, name)
    assert wrong == []
    assert (kept, type(kept)) == (stored, type(stored))
    if isinstance(kept, tuple):
        assert list(map(type, kept)) == list(map(type, stored))
    assert yaml.safe_load(yaml.safe_dump(codec.unstructure(word)))[name] == codec.unstructure(kept)


@pytest.mark.parametrize(("name", "value", "said"), REFUSED)
def test_what_means_no_plain_value_is_refused_in_plain_words(name, value, said):
    _, wrong = holding(name, value)
    assert len(wrong) == 1
    assert wrong[0].startswith(said)


@pytest.mark.parametrize("name", ["number", "share", "numbers", "text"])
def test_a_number_that_python_refuses_to_write_is_refused_without_being_written(name):
    # Such a value can't be a parameter of a test: pytest would write it.
    _, wrong = holding(name, (10**5000,) if name == "numbers" else 10**5000)
    assert "got a number of thousands of digits (" in wrong[0]


anything = st.one_of(
    *(st.just(value) for _, value, _ in [*STORED, *REFUSED]),
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats()
        | st.text(st.characters(), max_size=5)
        | st.binary(max_size=5)
        | st.fractions()
        | st.decimals()
        | st.sampled_from([np.float32, np.int16, np.bool_, np.longdouble, np.complex64]).map(lambda cls: cls(1))
        | st.lists(st.integers(0, 9), max_size=3).map(np.array),
        lambda inner: st.lists(inner, max_size=3).map(tuple) | st.lists(inner, max_size=2),
        max_leaves=5,
    ),
)


@given(st.sampled_from([field.name for field in attrs.fields(Anything)]), anything)
def test_whatever_is_given_is_stored_plainly_or_refused(name, value):
    word, wrong = holding(name, value)
    if wrong:
        assert len(wrong) == 1
        assert len(wrong[0]) < 250
        assert ", got " in wrong[0]
    else:
        written = codec.unstructure(word)
        assert yaml.safe_load(yaml.safe_dump(written)) == written
        assert codec.structure(written, Anything, "word") == word


def test_words_of_the_language_take_them_as_well():
    assert source.TextFiles(paths=(pathlib.Path("data/a.txt"),)).paths == ("data/a.txt",)
    assert optimizer.AdamW(learning_rate=np.float64(1e-3)) == optimizer.AdamW(learning_rate=1e-3)
    assert measure.Samples(prompts=np.array(["a"])).prompts == ("a",)
    assert attrs.evolve(SMALL_MODEL, name=Name.A).name == "a"


def test_a_text_that_no_file_can_hold_is_refused_wherever_it_is():
    def spoiled(value):
        """Each value with such a text in one place, and that place."""
        if isinstance(value, str):
            yield "", "a\ud800"
        elif isinstance(value, tuple):
            for index, item in enumerate(value):
                for path, spoilt in spoiled(item):
                    yield f"[{index}]{path}", (*value[:index], spoilt, *value[index + 1 :])
        elif isinstance(value, Word):
            for field in attrs.fields(type(value)):
                for path, spoilt in spoiled(getattr(value, field.name)):
                    yield f".{field.alias}{path}", attrs.evolve(value, **{field.alias: spoilt})

    with attrs.validators.disabled():
        recipes = list(spoiled(SMALL))
    assert len(recipes) > 10
    for path, recipe in recipes:
        found = checks.violations(recipe)
        # A part that is used twice is reported where it occurs first, and a tuple as a whole.
        fields = {each.path.rpartition(".")[2] for each in found}
        assert path.rpartition(".")[2].partition("[")[0] in fields, path
        assert all(each.path.isprintable() and each.reason.isprintable() for each in found)


def words_of(cls):
    for below in cls.__subclasses__():
        if below.__module__.startswith("llmrecipe."):
            yield below
        yield from words_of(below)


# attrs makes a class anew; the one before it is a subclass until Python finds that nobody needs it.
gc.collect()

NUMBERS = [
    pytest.param(cls, field, id=f"{cls.__name__}.{field.alias}")
    for cls in dict.fromkeys(words_of(Word))
    # attrs makes a second class of each, and Python forgets the first when it pleases.
    if cls.__module__.startswith("llmrecipe.recipe.") and "__attrs_attrs__" in vars(cls)
    for field in attrs.fields(cls)
    # That of a seed is a rule of the checks, and a score may be any number.
    if field.name != "seed" and cls is not gate.Score and {int, float} & {field.type, *get_args(field.type)}
]


@pytest.mark.parametrize(("cls", "field"), NUMBERS)
def test_each_number_of_each_word_has_a_range(cls, field):
    blank = cls.__new__(cls)
    extremes = [-(2**62), 2**62, -1] if int in {field.type, *get_args(field.type)} else [-1e300, 1e300, -1.0]
    for extreme in extremes:
        with pytest.raises(FieldError, match=f"{field.name}: must "):
            field.validator(blank, field, extreme)
