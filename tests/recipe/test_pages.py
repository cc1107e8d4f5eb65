"""What `help`, a notebook and an editor show of a word."""

import ast
import inspect
import operator
import pydoc
import subprocess
import sys
import textwrap

import attrs
import pytest

import llmrecipe
from llmrecipe import Parallelism, Trained, catalogue, optimizer
from llmrecipe.recipe import pages
from llmrecipe.recipe.cleaning import CustomCleaner
from llmrecipe.recipe.schema import Word, define

WORDS = {
    name: value
    for written in catalogue.words().values()
    for name in written
    if isinstance(value := operator.attrgetter(name)(llmrecipe), type) and issubclass(value, Word)
}


@pytest.mark.parametrize("name", WORDS)
def test_the_page_of_a_word_has_its_docstring_and_a_meaning_of_each_field(name):
    word = WORDS[name]
    own, _, listed = inspect.getdoc(word).partition("\n\nFields:\n")
    tree = ast.parse(inspect.getsource(word))
    assert own == ast.get_docstring(tree.body[0])
    entries = [each for each in ("\n" + listed).split("\n    ") if not each.startswith(" ")]
    assert [entry.partition(":")[0] for entry in entries[1:]] == [field.alias for field in attrs.fields(word)]
    for field in attrs.fields(word):
        assert f"    {pages.signature(field)}\n        " in listed + "\n"


def test_help_shows_what_a_field_means():
    shown = pydoc.plain(pydoc.render_doc(optimizer.AdamW))
    assert "learning_rate: float\n" in shown
    assert "The peak, reached at the end of the warm-up." in shown
    assert "beta2: float = 0.95\n" in shown
    assert "0.95 is usual for language models (Brown et al. 2020)." in shown


def test_a_signature_has_types_and_defaults():
    parameters = inspect.signature(optimizer.AdamW).parameters
    assert str(parameters["learning_rate"]) == "learning_rate: float"
    assert str(parameters["weight_decay"]) == "weight_decay: float = 0.1"


def test_a_default_is_shown_as_one_would_write_it():
    assert pages.signature(attrs.fields(Trained).parallelism) == "parallelism: Parallelism = Parallelism()"
    parallelism = attrs.fields(Trained).parallelism.evolve(default=Parallelism(data=2))
    assert pages.signature(parallelism) == "parallelism: Parallelism = Parallelism(data=2)"


def test_editors_see_each_default_and_no_call_that_makes_it():
    for name, word in WORDS.items():
        for node in ast.parse(inspect.getsource(word)).body[0].body:
            if isinstance(node, ast.AnnAssign) and isinstance(node.value, ast.Call):
                made = ast.unparse(node.value.func)
                assert made == "attrs.field" or made.rpartition(".")[2][0].isupper(), f"{name}.{ast.unparse(node)}"


def test_a_word_of_ones_own_has_a_page_with_the_fields_it_inherits(tmp_path, monkeypatch):
    (tmp_path / "words.py").write_text(
        textwrap.dedent('''
            from llmrecipe.extend import CustomCleaner, define

            @define("shouting_of_pages")
            class Shouting(CustomCleaner):
                """Drop what shouts."""

                share: float = 0.5
                """Of capitals,
                at most."""

                unsaid: int = 3
        ''')
    )
    monkeypatch.syspath_prepend(tmp_path)
    import words

    assert inspect.getdoc(words.Shouting).endswith(
        "    share: float = 0.5\n        Of capitals,\n        at most.\n    unsaid: int = 3"
    )


def test_a_word_without_a_source_has_its_own_docstring_and_its_fields():
    console = {"__name__": "console", "CustomCleaner": CustomCleaner, "define": define}
    exec("@define('typed_of_pages')\nclass Typed(CustomCleaner):\n    'Typed.'\n    share: float = 0.5", console)
    page = inspect.getdoc(console["Typed"])
    assert page.startswith("Typed.\n\nFields:\n    revision: int = 1\n        Raised by hand when the code does")
    assert page.endswith("\n    share: float = 0.5")


def test_an_import_reads_no_sources():
    asked = "import llmrecipe; from llmrecipe.recipe import pages; print(pages._tree.cache_info().misses)"
    assert subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True).stdout == "0\n"
