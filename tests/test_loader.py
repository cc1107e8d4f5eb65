import os
import sys
import textwrap

import attrs
import pytest
from strategies import SMALL

from llmrecipe import Machine, evolve, place
from llmrecipe.errors import LoadError, RecipeError
from llmrecipe.loader import find, load, load_machine, shared_modules
from llmrecipe.recipe import checks

WHOLE = """
    from llmrecipe import *

    def {name}(){annotation}:
        model = Trained(
            name="small-model",
            start=Llama(hidden_size=64, num_layers=2, num_attention_heads=4, num_key_value_heads=2),
            text=Corpus(name="stdlib", source=source.PythonStdlib()),
            tokenizer=ByteLevelBPE(vocab_size=512),
            objective=CausalLM(sequence_length=32),
            training=Training(
                duration=Steps(10), global_batch_size=4, optimizer=optimizer.AdamW(learning_rate=1e-3)
            ),
        )
        return Recipe(
            name="small",
            models=(model, Quantized(model=model, scheme=scheme.W4A16(group_size=32))),
            measures=(measure.Perplexity(), measure.Samples(prompts=("def ",))),
        )
"""


def whole(name, annotation=" -> Recipe"):
    return WHOLE.format(name=name, annotation=annotation)


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Write a file below an empty current folder."""
    monkeypatch.chdir(tmp_path)

    def write_file(path, text):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(textwrap.dedent(text))

    return write_file


def refusal(reference):
    with pytest.raises(LoadError) as caught:
        load(reference)
    return caught.value


@pytest.mark.parametrize("reference", ["small", "small:small", "recipes/small.py", "recipes/small.py:small"])
def test_a_recipe_is_found_by_name_and_by_file(write, reference):
    write("recipes/small.py", whole("small"))
    assert load(reference) == SMALL


def test_a_name_is_looked_up_in_the_folder_that_is_given(write, tmp_path):
    write("mine/small.py", whole("small"))
    assert load("small", tmp_path / "mine") == SMALL


def test_a_single_recipe_needs_no_name(write):
    write("a.py", whole("other"))
    assert load("a.py") == SMALL


def test_functions_that_take_arguments_or_return_something_else_are_no_recipes(write):
    write("a.py", whole("other") + "\n    def base(layers) -> Recipe: ...\n    def layers() -> int: return 3\n")
    assert load("a.py") == SMALL


def test_an_annotation_may_be_a_text(write):
    write("a.py", "    from __future__ import annotations\n" + whole("other") + "\n    def layers() -> int: ...\n")
    assert load("a.py") == SMALL


def test_of_several_recipes_the_one_named_like_the_file_is_meant(write):
    write("a.py", whole("a") + "\n    def b() -> Recipe: ...\n")
    assert load("a.py") == SMALL


def test_several_recipes_are_listed(write):
    write("a.py", whole("b") + "\n    def c() -> Recipe: ...\n")
    assert str(refusal("a.py")) == "a.py: has several recipes; name one, as in a.py:b (they are b, c)"


def test_a_file_without_a_recipe_says_what_to_write(write):
    write("a.py", "x = 1\n")
    assert str(refusal("a.py")) == "a.py: has no recipe; write `def a() -> Recipe:`"


def test_a_missing_name_gets_the_nearest_in_the_folder(write):
    write("recipes/quickstart.py", "")
    write("recipes/llama_7b.py", "")
    assert str(refusal("quikstart")) == (
        "recipes/quikstart.py: no such recipe; did you mean 'quickstart'? (known: llama_7b, quickstart)"
    )
    assert "did you mean 'recipes/llama_7b.py'?" in str(refusal("recipes/lama_7b.py"))
    write("recipes/machines.py", "")
    assert str(refusal("lama_7b.py")) == (
        "lama_7b.py: no such file; did you mean 'llama_7b.py'? (known: llama_7b.py, quickstart.py)"
    )


def test_a_missing_folder_and_a_folder_in_place_of_a_file_are_refused(write, tmp_path):
    (tmp_path / "a.py").mkdir(parents=True)
    gone = "no such file, and no folder recipes here; go to the project's folder"
    assert str(refusal("recipes/x.py")) == f"recipes/x.py: {gone}"
    assert str(refusal("a.py")).startswith("a.py: no such file")


def test_a_missing_function_gets_the_nearest(write):
    write("a.py", whole("small"))
    assert str(refusal("a.py:smal")) == "a.py: no function 'smal'; did you mean 'small'? (known: small)"


def test_a_recipe_that_is_no_function_is_refused(write):
    write("a.py", whole("f") + "\n    recipe = f()\n")
    assert "recipe is Recipe(name='small'" in str(refusal("a.py:recipe"))


def test_a_function_that_needs_arguments_is_refused_and_defaults_are_fine(write):
    write("a.py", "    def a(layers, *, heads, width=3, **more): ...\n")
    assert str(refusal("a.py")).startswith("a.py: a() needs layers, heads; a recipe is a function without arguments")
    write("b.py", whole("inner") + "\n    def b(layers=2): return inner()\n")
    assert load("b.py") == SMALL


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("pass", "None, not a Recipe; is its `return` missing?"),
        ("return 3", "3 (int), not a Recipe"),
        ("from llmrecipe import Recipe; return Recipe", "the class Recipe, not a recipe; write Recipe(…)"),
        (
            "from strategies import SMALL; return SMALL.models[0]",
            "a Trained, not a Recipe; return Recipe(models=(…,)), with the model in it",
        ),
    ],
)
def test_what_a_function_returned_instead_of_a_recipe_is_said(write, body, said):
    write("a.py", f"def a(): {body}\n")
    assert str(refusal("a.py")) == f"a.py: a() returned {said}"


def test_a_syntax_error_is_shown_with_its_line(write):
    write("a.py", "x = 1\ndef a(:\n")
    error = refusal("a.py")
    assert str(error) == "a.py: is not valid Python"
    assert error.traceback.startswith('  File "a.py", line 2\n    def a(:\n')


def test_a_null_byte_is_a_syntax_error(write):
    write("a.py", "x = '\0'\n")
    assert str(refusal("a.py")) == "a.py: is not valid Python"


def test_an_import_error_is_shown(write):
    write("a.py", "\nimport no_such_module\n")
    error = refusal("a.py")
    assert str(error) == "a.py: failed with ModuleNotFoundError: No module named 'no_such_module'"
    assert 'File "a.py", line 2, in <module>' in error.traceback


@pytest.mark.parametrize(
    ("line", "near"),
    [
        ("from llmrecipe import Lama", "Llama"),
        ("def a(): return Lama()", "Llama"),
        ("def a(): return Quantize()", "Quantized"),
        ("from llmrecipe import AdamW", "optimizer.AdamW"),
        ("def a(): return AdamW()", "optimizer.AdamW"),
        ("def a(): return W4A61()", "scheme.W4A16"),
        ("from llmrecipe import clean; clean.FixUnicod", "clean.FixUnicode"),
        ("from llmrecipe.recipe.clean import FixUnicod", "clean.FixUnicode"),
        ("from llmrecipe import clean; clean.W8A8", "scheme.W8A8"),
        ("from llmrecipe import schedule; schedule.Linea", "schedule.Linear"),
        ("import llmrecipe; llmrecipe.Perplexity", "measure.Perplexity"),
    ],
)
def test_a_misspelt_word_of_the_language_gets_the_nearest_with_its_room(write, line, near):
    write("a.py", f"{line}\n")
    assert str(refusal("a.py")).endswith(f"; did you mean {near!r}?")


@pytest.mark.parametrize("word", ["optimizer", "Llama"])
def test_a_word_that_is_not_imported_is_to_be_imported(write, word):
    write("a.py", f"def a(): return {word}\n")
    assert str(refusal("a.py")).endswith(f"; import it: `from llmrecipe import {word}`")


@pytest.mark.parametrize("line", ["import math; math.pj", "xqzwv", "[].apend(1)", "from math import pj"])
def test_a_name_of_something_else_gets_no_word_of_the_language(write, line):
    write("a.py", f"{line}\n")
    assert "did you mean" not in str(refusal("a.py"))


@pytest.mark.parametrize("exception", ["ZeroDivisionError('x')", "SystemExit(3)", "KeyError('x')"])
def test_whatever_a_recipe_raises_is_shown_from_the_users_file_on(write, exception):
    write("helper.py", f"def fail():\n    raise {exception}\n")
    write("a.py", "import helper\n\ndef a():\n    return helper.fail()\n")
    lines = refusal("a.py").traceback.splitlines()
    files = [line.split('"')[1] for line in lines if line.startswith("  File")]
    assert [os.path.basename(file) for file in files] == ["a.py", "helper.py"]
    assert lines[-1].startswith(exception.partition("(")[0])


def test_an_interruption_is_left_alone(write):
    write("a.py", "raise KeyboardInterrupt\n")
    with pytest.raises(KeyboardInterrupt):
        load("a.py")


@pytest.mark.parametrize(
    ("call", "said"),
    [
        ("Llama(hiden_size=3)", "Llama has no field 'hiden_size'; did you mean 'hidden_size'? (known: hidden_size, "),
        ("Llama(hidden_size=3)", "Llama needs num_layers, num_attention_heads, num_key_value_heads"),
        ("CausalLM(256)", "CausalLM takes its fields by name: CausalLM(sequence_length=…, restart_at_documents=…, "),
        ("Tokens()", "Tokens needs count"),
        ("attrs.evolve(Parallelism(), tenser=2)", "Parallelism has no field 'tenser'; did you mean 'tensor'?"),
        ("evolve(Parallelism(), tenser=2)", "Parallelism has no field 'tenser'; did you mean 'tensor'? (known: data, "),
        (
            "evolve(Training, seed=2)",
            "evolve changes a word of the language, such as a recipe or a model, got the class",
        ),
        ("optimizer.AdamW(1e-3)", "AdamW takes its fields by name: AdamW(learning_rate=…, beta1=…"),
        ("clean.RegexFilter(patern='a')", "RegexFilter has no field 'patern'; did you mean 'pattern'?"),
        ("Quantized(given_name='a')", "Quantized has no field 'given_name'; "),
        ("Quantized(scheme=1)", "Quantized needs model"),
        ("augment.Band(most=1)", "Band needs least"),
        ("Shout(loudly=True)", "Shout has no field 'loudly'; did you mean 'loud'? (known: loud)"),
    ],
)
def test_a_call_with_wrong_fields_is_explained_with_its_file_and_line(write, call, said):
    write(
        "own.py",
        """
        from llmrecipe.recipe.kinds import Cleaner
        from llmrecipe.recipe.schema import define

        @define("shout")
        class Shout(Cleaner):
            loud: bool = True
        """,
    )
    write("a.py", f"import attrs; from own import Shout\nfrom llmrecipe import *\n\ndef a():\n    return {call}\n")
    assert str(refusal("a.py")).startswith(f"a.py:5: {said}")


def test_a_wrong_field_in_a_sibling_is_placed_in_the_sibling(write, tmp_path):
    write("recipes/base.py", "from llmrecipe import *\n\nmodel = Llama(hiden_size=3)\n")
    write("recipes/a.py", "import base\n")
    assert str(refusal("a")).startswith(f"{tmp_path}/recipes/base.py:3: Llama has no field")


def test_a_recipe_of_a_sibling_fails_as_one_of_the_file(write):
    write(
        "recipes/base.py",
        "from llmrecipe import *\n\ndef one():\n    return Llama(3)\n\ndef two():\n    return 1 / 0\n",
    )
    write("recipes/a.py", "from base import one, two\n")
    assert "recipes/base.py:4: Llama takes its fields by name" in str(refusal("a:one"))
    assert refusal("a:two").traceback.splitlines()[1].endswith('recipes/base.py", line 7, in two')


def test_a_recipe_of_an_installed_package_fails_where_it_is(write, monkeypatch, tmp_path):
    write("installed/package_of_recipes.py", "from llmrecipe import *\n\ndef one():\n    return Llama(3)\n")
    write("recipes/a.py", "from package_of_recipes import one\n")
    monkeypatch.syspath_prepend(tmp_path / "installed")
    assert "package_of_recipes.py:4: Llama takes its fields by name" in str(refusal("a:one"))


def test_a_type_error_of_the_users_own_keeps_its_traceback(write):
    write("a.py", "def f(): ...\n\ndef a():\n    return f(x=1)\n")
    error = refusal("a.py")
    assert "failed with TypeError" in str(error)
    assert "return f(x=1)" in error.traceback


def test_wrong_fields_are_left_to_the_checks_which_report_all(write):
    write(
        "recipes/small.py",
        whole("small").replace("hidden_size=64", "hidden_size='64'").replace("Steps(10)", "Steps(-1)"),
    )
    recipe = load("small")
    paths = {violation.path for violation in checks.violations(recipe)}
    assert paths == {"small.models[0].start.hidden_size", "small.models[0].training.duration.count"}
    assert not attrs.validators.get_disabled()


def test_validators_are_on_again_after_a_failure(write):
    write("a.py", "1 / 0\n")
    refusal("a.py")
    assert not attrs.validators.get_disabled()


def test_a_recipe_may_vary_a_sibling_and_each_load_reads_the_files_anew(write):
    write("recipes/small.py", whole("small"))
    write(
        "recipes/deep.py",
        """
        from llmrecipe import Recipe, evolve
        from small import small

        def deep() -> Recipe:
            base = small()
            return evolve(base, name="deep", models=(evolve(base.models[0], start__num_layers=9),))
        """,
    )
    assert load("deep") == evolve(SMALL, name="deep", models=(evolve(SMALL.models[0], start__num_layers=9),))
    write("recipes/small.py", whole("small").replace('"stdlib"', '"python"'))
    assert load("deep").models[0].text.name == "python"


def test_siblings_of_one_folder_are_not_taken_for_those_of_another(write):
    for folder in ("one", "two"):
        write(f"{folder}/base.py", f"name = '{folder}'\n")
        write(f"{folder}/package/__init__.py", "")
        write(f"{folder}/package/inner.py", f"name = '{folder}'\n")
        named = whole("small").replace('name="small"', "name=base.name + package.inner.name")
        write(f"{folder}/small.py", "import base\nimport package.inner\n" + textwrap.dedent(named))
    assert [load(f"{folder}/small.py").name for folder in ("one", "two", "one")] == ["oneone", "twotwo", "oneone"]


def test_a_load_leaves_no_trace_in_the_process(write, tmp_path):
    write("recipes/base.py", "")
    write("recipes/small.py", "import base\n" + textwrap.dedent(whole("small")))
    path, modules, writes_bytecode = list(sys.path), set(sys.modules), sys.dont_write_bytecode
    load("small")
    assert (sys.path, set(sys.modules), sys.dont_write_bytecode) == (path, modules, writes_bytecode)
    assert not list(tmp_path.rglob("__pycache__"))


def test_a_file_may_have_the_name_of_a_module(write):
    write("json.py", "import json\nassert json.dumps([]) == '[]'\n" + textwrap.dedent(whole("json_")))
    assert load("json.py") == SMALL


def test_a_recipe_without_a_name_gets_that_of_its_function(write):
    write("recipes/a.py", whole("second_try").replace('name="small",', ""))
    assert load("a") == evolve(SMALL, name="second_try")


def test_a_reference_is_the_file_and_the_function_however_they_were_named(write, tmp_path):
    write("recipes/small.py", whole("small"))
    named = ["small", "small:small", "recipes/small.py", "./recipes/small.py:small", f"{tmp_path}/recipes/small.py"]
    assert {find(reference).reference for reference in named} == {"recipes/small.py:small"}


OWN_WORD = """
    from llmrecipe.recipe.kinds import Cleaner
    from llmrecipe.recipe.schema import define

    @define("shout")
    class Shout(Cleaner):
        loud: bool = True
"""


def test_recipes_that_are_loaded_together_share_the_modules_that_they_import(write):
    write("recipes/own.py", OWN_WORD)
    write("recipes/base.py", "from own import Shout\n")
    for name in ("one", "two"):
        recipe = whole(name).replace("source.PythonStdlib()", "source.PythonStdlib(), clean=(Shout(),)")
        write(f"recipes/{name}.py", "from base import Shout\n" + textwrap.dedent(recipe))
    with shared_modules():
        one, two = load("one"), load("two")
    assert one == two
    assert "own" not in sys.modules
    apart = load("two")
    assert apart != two
    write("recipes/own.py", OWN_WORD.replace("loud", "quiet"))
    with shared_modules():
        assert load("one").models[0].text.clean[0].quiet


def test_modules_of_two_folders_stay_apart_when_recipes_are_loaded_together(write):
    for folder in ("one", "two"):
        write(f"{folder}/base.py", f"name = '{folder}'\n")
        named = whole("small").replace('name="small"', "name=base.name")
        write(f"{folder}/small.py", "import base\n" + textwrap.dedent(named))
    with shared_modules():
        assert [load(f"{folder}/small.py").name for folder in ("one", "two", "one")] == ["one", "two", "one"]


MACHINES = """
    from llmrecipe import Machine, Recipe, place

    def here() -> Machine:
        return Machine()

    def cluster(workers=64) -> Machine:
        return Machine(workers=workers, text_on=place.Slurm(partition="cpu", time_limit="1:00:00"))

    def wrong() -> Machine:
        return Machine(workers=0, device="tpu")

    def nothing() -> Machine: ...

    def recipe() -> Recipe:
        return 3
"""


def test_a_machine_is_found_by_name_and_by_file(write):
    write("recipes/machines.py", MACHINES)
    assert load_machine("here") == Machine()
    cluster = Machine(workers=64, text_on=place.Slurm(partition="cpu", time_limit="1:00:00"))
    assert load_machine("cluster") == load_machine("recipes/machines.py:cluster") == cluster


@pytest.mark.parametrize(
    ("reference", "said"),
    [
        ("clusters", "recipes/machines.py: no function 'clusters'; did you mean 'cluster'?"),
        ("nothing", "recipes/machines.py: nothing() returned None, not a Machine; is its `return` missing?"),
        ("recipe", "recipes/machines.py: recipe() returned 3 (int), not a Machine"),
        ("other.py:x", "other.py: no such file; write it, with `def x() -> Machine:` in it"),
    ],
)
def test_a_machine_that_is_not_there_is_refused_as_a_recipe_is(write, reference, said):
    write("recipes/machines.py", MACHINES)
    with pytest.raises(LoadError) as caught:
        load_machine(reference)
    assert str(caught.value).startswith(said)


def test_everything_that_is_wrong_with_a_machine_is_said_at_once(write):
    write("recipes/machines.py", MACHINES)
    with pytest.raises(RecipeError) as caught:
        load_machine("wrong")
    assert [violation.path for violation in caught.value.violations] == [
        "recipes/machines.py:wrong.device",
        "recipes/machines.py:wrong.workers",
    ]


def test_a_file_is_ordinary_python_while_it_runs(write):
    write("base.py", whole("base"))
    write(
        "a.py",
        """
        from __future__ import annotations
        import dataclasses, pickle, typing
        from llmrecipe import Recipe, evolve
        from base import base

        class Own:
            pass

        def other() -> Recipe:
            @dataclasses.dataclass
            class Options:
                name: str = "small"
                kept: typing.ClassVar[int] = 1

            assert [field.name for field in dataclasses.fields(Options)] == ["name"]
            assert isinstance(pickle.loads(pickle.dumps(Own())), Own)
            return evolve(base(), name=Options().name)
        """,
    )
    modules = set(sys.modules)
    assert load("a.py:other") == SMALL
    assert {name for name in set(sys.modules) - modules if name.startswith("llmrecipe:")} == set()


@pytest.mark.parametrize(
    "made",
    [
        "@functools.cache\n    def other() -> Recipe: return base()",
        "@functools.lru_cache(maxsize=None)\n    def other(): return base()",
        "@staticmethod\n    def other() -> Recipe: return base()",
        "other = lambda: base()",
    ],
)
def test_a_function_that_is_wrapped_is_a_function(write, made):
    write("other.py", "    import functools\n" + whole("base") + f"\n    {made}\n")
    assert load("other.py") == SMALL
    assert find("other.py:other").reference == "other.py:other"


def test_a_coroutine_is_no_recipe(write):
    write("other.py", "    async def other(): return None\n")
    with pytest.raises(LoadError, match=r"other\(\) is `async`; a recipe is a plain function, by `def` alone"):
        find("other.py")


def test_whatever_is_raised_is_told_as_the_files_own(write):
    write("other.py", "    class Stop(BaseException): pass\n    def other(): raise Stop('enough')\n")
    with pytest.raises(LoadError, match=r"other\.py: failed with .*Stop: enough"):
        find("other.py")


@pytest.mark.parametrize("made", ["functools.partial(base)", "functools.partial(evolve, base())"])
def test_what_is_called_like_a_function_and_named_like_its_file_is_meant(write, made):
    write("other.py", "    import functools\n" + whole("base") + f"\n    other = {made}\n")
    assert find("other.py").value == SMALL


def test_what_is_called_like_a_function_can_be_named(write):
    write(
        "a.py", "    import functools\n" + whole("base") + "\n    other = functools.partial(evolve, base(), name='b')\n"
    )
    assert load("a.py:other") == evolve(SMALL, name="b")


@pytest.mark.parametrize("field", ["", "extra: int = 1"])
@pytest.mark.parametrize("decorator", ["", "@attrs.frozen(kw_only=True)"])
@pytest.mark.parametrize("parent", ["optimizer.AdamW", "kinds.Optimizer"])
def test_a_class_below_a_word_that_is_not_declared_is_refused_where_it_is_used(write, field, decorator, parent):
    write("base.py", whole("base"))
    write(
        "a.py",
        f"""
        import attrs
        from llmrecipe import Recipe, evolve
        from llmrecipe.recipe import kinds, optimizer
        from base import base

        {decorator}
        class Mine({parent}):
            {field or "pass"}

        def other() -> Recipe:
            model = base().models[0]
            return Recipe(models=(evolve(model, training__optimizer=Mine(learning_rate=1e-3)),))
        """,
    )
    found = checks.violations(load("a.py:other"))
    assert [each.path for each in found] == ["other.models[0].training.optimizer"]
    assert "(Mine), whose class is no word of the language" in found[0].reason
    assert found[0].reason.endswith("or use AdamW") == (parent == "optimizer.AdamW")


def test_a_class_below_recipe_is_no_recipe(write):
    write(
        "a.py", whole("base") + "\n    class Mine(Recipe): pass\n    def other(): return Mine(models=base().models)\n"
    )
    assert "no word of the language" in str(refusal("a.py:other"))
