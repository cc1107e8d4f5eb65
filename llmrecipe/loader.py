"""Finds a recipe: runs the user's file and calls its function."""

import importlib
import importlib.util
import inspect
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType, TracebackType

import attrs

import llmrecipe
from llmrecipe.errors import LoadError, suggestion
from llmrecipe.recipe.recipe import Recipe
from llmrecipe.recipe.schema import shown


def load(reference: str, recipes_dir: Path = Path("recipes")) -> Recipe:
    """The recipe that `reference` names: `file.py`, `file.py:function`, or `name` for `recipes_dir/name.py`.

    Its fields are not checked yet, so that `recipe.checks` can report all that is wrong at once. The file is a
    program of the user: it runs with this process's rights.

    Raises:
        LoadError: the file or the function isn't there, the user's code fails, or what it returns is no recipe.
    """
    target, _, function = reference.partition(":")
    is_path = target.endswith(".py") or "/" in target
    path = Path(target) if is_path else recipes_dir / f"{target}.py"
    if not path.is_file():
        raise LoadError(_not_found(path, is_path))
    with _importable_siblings(path.parent), attrs.validators.disabled():
        module = _run(path)
        factory = _factory(module, path, function)
        with _user_code(path):
            recipe = factory()
    if not isinstance(recipe, Recipe):
        raise LoadError(f"{path}: {factory.__name__}() returned {_returned(recipe)}")
    return recipe


def _not_found(path: Path, is_path: bool) -> str:
    what = "file" if is_path else "recipe"
    if not path.parent.is_dir():
        return f"{path}: no such {what}, and no folder {path.parent} here; go to the project's folder"
    files = sorted(path.parent.glob("*.py"))
    if is_path:
        return f"{path}: no such {what}{suggestion(str(path), list(map(str, files)))}"
    return f"{path}: no such {what}{suggestion(path.stem, [file.stem for file in files])}"


def _returned(value: object) -> str:
    if value is None:
        return "None, not a Recipe; is its `return` missing?"
    if value is Recipe:
        return "the class Recipe, not a recipe; write Recipe(…)"
    return f"{shown(value)}, not a Recipe"


def _run(path: Path) -> ModuleType:
    # A name of its own: a file called json.py must not stand in for the module json.
    name = f"llmrecipe:{path.stem}"
    module = ModuleType(name)
    module.__file__ = str(path)
    sys.modules[name] = module
    try:
        with _user_code(path):
            exec(compile(path.read_bytes(), str(path), "exec", dont_inherit=True), module.__dict__)
    finally:
        del sys.modules[name]
    return module


def _factory(module: ModuleType, path: Path, function: str) -> Callable[[], Recipe]:
    """The function that makes the recipe, by name or because no other can be meant."""
    own = {
        name: value
        for name, value in vars(module).items()
        if inspect.isfunction(value) and value.__module__ == module.__name__ and not name.startswith("_")
    }
    if not function:
        function = path.stem if path.stem in own else _only_recipe(own, path)
    value = vars(module).get(function)
    if value is None:
        raise LoadError(f"{path}: no function {function!r}{suggestion(function, list(own))}")
    if not inspect.isfunction(value):
        raise LoadError(f"{path}: {function} is {shown(value)}; a recipe is a function that returns a Recipe")
    if _required(value):
        raise LoadError(
            f"{path}: {function}() needs {', '.join(_required(value))}; a recipe is a function without arguments: "
            "give them defaults, or write one that calls it"
        )
    return value


def _only_recipe(own: dict[str, Callable], path: Path) -> str:
    complete = [name for name, value in own.items() if not _required(value)]
    annotated = [name for name in complete if own[name].__annotations__.get("return") in (Recipe, "Recipe")]
    candidates = annotated or complete
    if not candidates:
        raise LoadError(f"{path}: has no recipe; write `def {path.stem}() -> Recipe:`")
    if len(candidates) > 1:
        raise LoadError(
            f"{path}: has several recipes; name one, as in {path}:{candidates[0]} (they are {', '.join(candidates)})"
        )
    return candidates[0]


def _required(function: Callable) -> list[str]:
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    parameters = inspect.signature(function).parameters.values()
    return [item.name for item in parameters if item.default is item.empty and item.kind not in variadic]


@contextmanager
def _importable_siblings(folder: Path) -> Iterator[None]:
    """Let a recipe import the files beside it, and forget them afterwards: the next load reads them again."""
    folder = folder.resolve()
    before, writes_bytecode = set(sys.modules), sys.dont_write_bytecode
    sys.path.insert(0, str(folder))
    # Compiled files are matched by the second of a change, too coarse for a file that was edited just now.
    sys.dont_write_bytecode = True
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        sys.dont_write_bytecode = writes_bytecode
        new = set(sys.modules) - before
        siblings = {name for name in new if "." not in name and _is_in(sys.modules[name], folder)}
        for name in new:
            if name.partition(".")[0] in siblings:
                del sys.modules[name]


def _is_in(module: ModuleType, folder: Path) -> bool:
    places = list(getattr(module, "__path__", [])) or [getattr(module, "__file__", None)]
    return places[0] is not None and _is_file_in(places[0], folder)


@contextmanager
def _user_code(path: Path) -> Iterator[None]:
    """Turn whatever the user's code raises into a `LoadError` that shows where, from the user's file on."""
    try:
        yield
    except (Exception, SystemExit) as error:
        frames = error.__traceback__
        while frames is not None and frames.tb_frame.f_code.co_filename == __file__:
            frames = frames.tb_next
        misuse = _misuse(error)
        if misuse is not None:
            raise LoadError(f"{_place(frames, path.parent.resolve())}: {misuse}") from None
        shown_traceback = "".join(traceback.format_exception(type(error), error, frames))
        raise LoadError(f"{path}: {_failure(error)}", shown_traceback) from None


def _is_file_in(filename: str, folder: Path) -> bool:
    return Path(filename).resolve().parent == folder


def _failure(error: BaseException) -> str:
    if isinstance(error, SyntaxError):
        return "is not valid Python"
    word = re.search(r"name '(\w+)'", str(error)) if isinstance(error, NameError | ImportError) else None
    near = get_close_matches(word[1], llmrecipe.__all__, n=1) if word else []
    return f"failed with {type(error).__name__}: {error}" + (f"; did you mean {near[0]!r}?" if near else "")


def _place(frames: TracebackType | None, folder: Path) -> str:
    """The last line that was running in the user's folder, or else where the user's code went."""
    summaries = traceback.extract_tb(frames)
    last = [summary for summary in summaries if _is_file_in(summary.filename, folder)] or summaries
    return f"{last[-1].filename}:{last[-1].lineno}"


def _misuse(error: BaseException) -> str | None:
    """A call of one of the language's classes with the wrong fields, in words; None for any other error."""
    call = re.match(r"(\w+)\.__init__\(\) (.*)", str(error)) if isinstance(error, TypeError) else None
    cls = getattr(llmrecipe, call[1], None) if call else None
    if cls is None or not attrs.has(cls):
        return None
    fields = [field.name for field in attrs.fields(cls)]
    unknown = re.match(r"got an unexpected keyword argument '(\w+)'", call[2])
    if unknown:
        return f"{cls.__name__} has no field {unknown[1]!r}{suggestion(unknown[1], fields)}"
    if call[2].startswith("missing"):
        missing = re.findall(r"'(\w+)'", call[2])
        return f"{cls.__name__} needs {', '.join(missing)}"
    return f"{cls.__name__} takes its fields by name: {cls.__name__}({', '.join(f'{name}=…' for name in fields)})"
