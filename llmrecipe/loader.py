"""Finds recipes and machines: runs the user's files and calls their functions."""

import importlib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any

import attrs

from llmrecipe import misuse
from llmrecipe.errors import LoadError, RecipeError, suggestion
from llmrecipe.recipe.kinds import Model
from llmrecipe.recipe.machine import Machine
from llmrecipe.recipe.recipe import Recipe
from llmrecipe.recipe.schema import field_violations, matches, misfit, shown

RECIPES_DIR = Path("recipes")

MACHINES_FILE = "machines.py"
"""The file of the machines, next to the recipes."""


@attrs.frozen
class Loaded:
    """What a reference names."""

    value: Any
    """What its function returned."""

    reference: str
    """The file and the function, however they were named: `recipes/quickstart.py:quickstart`."""


def load(reference: str, recipes_dir: Path = RECIPES_DIR) -> Recipe:
    """The recipe that `reference` names: `file.py`, also of `recipes_dir`, `file.py:function`, or `name` for `name.py`.

    Its fields are not checked yet, so `recipe.checks` can report all that is wrong at once. Without a name of its own
    it gets that of its function. The file is a program of the user: it runs with this process's rights.

    Raises:
        LoadError: the file or the function isn't there, the user's code fails, or it returns no recipe.
    """
    return find(reference, recipes_dir).value


def find(reference: str, recipes_dir: Path = RECIPES_DIR) -> Loaded:
    """The recipe that `reference` names, as by `load`, and the full form of the reference.

    Raises:
        LoadError: as `load` does.
    """
    target, _, function = reference.partition(":")
    is_path = target.endswith(".py") or "/" in target
    path = Path(target) if is_path else recipes_dir / f"{target}.py"
    if is_path and not path.is_file() and (recipes_dir / path).is_file():
        path = recipes_dir / path
    if not path.is_file():
        raise LoadError(_not_found(path, is_path, recipes_dir))
    recipe, name = _call(path, function, Recipe)
    if recipe.given_name is None:
        with attrs.validators.disabled():
            recipe = attrs.evolve(recipe, name=name)
    return Loaded(recipe, f"{_from_here(path)}:{name}")


def load_machine(reference: str, recipes_dir: Path = RECIPES_DIR) -> Machine:
    """The machine that `reference` names: a function of `recipes_dir/machines.py`, or `file.py:function`.

    Raises:
        LoadError: the file or the function isn't there, the user's code fails, or it returns no machine.
        RecipeError: fields of the machine are wrong.
    """
    target, separator, function = reference.rpartition(":")
    path = Path(target) if separator else recipes_dir / MACHINES_FILE
    if not path.is_file():
        raise LoadError(f"{path}: no such file; write it, with `def {function}() -> Machine:` in it")
    machine, name = _call(path, function, Machine)
    found = list(field_violations(machine, f"{path}:{name}"))
    if found:
        raise RecipeError(found)
    return machine


_shared: "dict[Path, dict[str, ModuleType]] | None" = None
"""While modules are shared, those next to the recipes that were imported, by folder."""


@contextmanager
def shared_modules() -> Iterator[None]:
    """Let all that is loaded inside share the modules that it imports from next to its files, so its values compare.

    They are forgotten at the end: the next command reads the files again.
    """
    global _shared
    if _shared is not None:
        yield
        return
    _shared = {}
    try:
        yield
    finally:
        _shared = None


def _call(path: Path, function: str, wanted: type) -> tuple[Any, str]:
    """What a function of a file returns, if it is what is wanted, and the function's name."""
    with ExitStack() as stack:
        stack.enter_context(shared_modules())
        stack.enter_context(_importable_siblings(path.parent))
        stack.enter_context(attrs.validators.disabled())
        module = stack.enter_context(_running(path))
        name = _factory(module, path, function, wanted)
        with _user_code(path):
            value = vars(module)[name]()
    if not matches(value, wanted):
        raise LoadError(f"{path}: {name}() returned {_returned(value, wanted)}")
    return value, name


def _from_here(path: Path) -> str:
    resolved, here = path.resolve(), Path.cwd()
    return (resolved.relative_to(here) if resolved.is_relative_to(here) else resolved).as_posix()


def _not_found(path: Path, is_path: bool, recipes_dir: Path) -> str:
    what = "file" if is_path else "recipe"
    if not path.parent.is_dir():
        return f"{path}: no such {what}, and no folder {path.parent} here; go to the project's folder"
    # A file is looked for among the recipes as well.
    folders = (path.parent, recipes_dir / path.parent) if is_path else (path.parent,)
    names = sorted({file.name for folder in folders for file in folder.glob("*.py")} - {MACHINES_FILE})
    if is_path:
        return f"{path}: no such {what}{suggestion(str(path), [str(path.with_name(name)) for name in names])}"
    return f"{path}: no such {what}{suggestion(path.stem, [Path(name).stem for name in names])}"


def _returned(value: object, wanted: type) -> str:
    noun = wanted.__name__
    if value is None:
        return f"None, not a {noun}; is its `return` missing?"
    if value is wanted:
        return f"the class {noun}, not a {noun.lower()}; write {noun}(…)"
    if wanted is Recipe and isinstance(value, Model):
        return f"a {type(value).__name__}, not a Recipe; return Recipe(models=(…,)), with the model in it"
    return f"{shown(value)}, not a {noun}{misfit(value, wanted)}"


@contextmanager
def _running(path: Path) -> Iterator[ModuleType]:
    """The module of a file, which Python knows inside: dataclasses, pickle and annotations ask for it by its name."""
    # A name of its own: a file called json.py must not stand in for the module json.
    name = f"llmrecipe:{path.stem}"
    module = ModuleType(name)
    module.__file__ = str(path)
    sys.modules[name] = module
    try:
        with _user_code(path):
            exec(compile(path.read_bytes(), str(path), "exec", dont_inherit=True), module.__dict__)
        yield module
    finally:
        sys.modules.pop(name, None)


def _factory(module: ModuleType, path: Path, function: str, wanted: type) -> str:
    """The name of the function that makes what is wanted, as given or because no other can be meant."""
    noun = wanted.__name__
    own: dict[str, Callable[..., Any]] = {
        name: value
        for name, value in vars(module).items()
        if _is_function(value) and value.__module__ == module.__name__ and not name.startswith("_")
    }
    if not function:
        # Whoever wrote it: one that is named like its file is meant.
        function = path.stem if _is_function(vars(module).get(path.stem)) else _only_one(own, path, wanted)
    value = vars(module).get(function)
    if value is None:
        raise LoadError(f"{path}: no function {function!r}{suggestion(function, list(own))}")
    if not _is_function(value):
        raise LoadError(f"{path}: {function} is {shown(value)}; a {noun.lower()} is a function that returns a {noun}")
    if inspect.iscoroutinefunction(value):
        raise LoadError(f"{path}: {function}() is `async`; a {noun.lower()} is a plain function, by `def` alone")
    if _required(value):
        raise LoadError(
            f"{path}: {function}() needs {', '.join(_required(value))}; a {noun.lower()} is a function without "
            "arguments: give them defaults, or write one that calls it"
        )
    return function


def _is_function(value: object) -> bool:
    """Whether a value is called like a function: also one that is wrapped, as by `functools.cache`."""
    return callable(value) and not isinstance(value, type)


def _only_one(own: Mapping[str, Callable[..., Any]], path: Path, wanted: type) -> str:
    noun = wanted.__name__
    complete = [name for name, value in own.items() if not _required(value)]
    annotated = [name for name in complete if inspect.signature(own[name]).return_annotation in (wanted, noun)]
    candidates = annotated or complete
    if not candidates:
        raise LoadError(f"{path}: has no {noun.lower()}; write `def {path.stem}() -> {noun}:`")
    if len(candidates) > 1:
        raise LoadError(
            f"{path}: has several {noun.lower()}s; name one, as in {path}:{candidates[0]} (they are "
            f"{', '.join(candidates)})"
        )
    return candidates[0]


def _required(function: Callable) -> list[str]:
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    parameters = inspect.signature(function).parameters.values()
    return [item.name for item in parameters if item.default is item.empty and item.kind not in variadic]


@contextmanager
def _importable_siblings(folder: Path) -> Iterator[None]:
    """Let a file import those next to it; what it imports of them is seen by no file of another folder."""
    folder = folder.resolve()
    shared = {} if _shared is None else _shared.setdefault(folder, {})
    before, writes_bytecode = set(sys.modules), sys.dont_write_bytecode
    sys.modules |= shared
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
                shared[name] = sys.modules.pop(name)


def _is_in(module: ModuleType, folder: Path) -> bool:
    places = list(getattr(module, "__path__", [])) or [getattr(module, "__file__", None)]
    return places[0] is not None and _is_file_in(places[0], folder)


@contextmanager
def _user_code(path: Path) -> Iterator[None]:
    """Turn whatever the user's code raises into a `LoadError` that shows where, from the user's file on."""
    try:
        yield
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        frames = error.__traceback__
        while frames is not None and frames.tb_frame.f_code.co_filename == __file__:
            frames = frames.tb_next
        wrong_fields = misuse.of_fields(error)
        if wrong_fields is not None:
            raise LoadError(f"{_place(frames, path.parent.resolve())}: {wrong_fields}") from None
        shown_traceback = "".join(traceback.format_exception(type(error), error, frames))
        raise LoadError(f"{path}: {_failure(error)}", shown_traceback) from None


def _is_file_in(filename: str, folder: Path) -> bool:
    return Path(filename).resolve().parent == folder


def _failure(error: BaseException) -> str:
    # Before Python 3.11.4 a null byte was a ValueError.
    if isinstance(error, SyntaxError) or "source code string cannot contain null bytes" in str(error):
        return "is not valid Python"
    return f"failed with {type(error).__name__}: {error}{misuse.hint(error)}"


def _place(frames: TracebackType | None, folder: Path) -> str:
    """The last line that was running in the user's folder, or else where the user's code went."""
    summaries = traceback.extract_tb(frames)
    last = [summary for summary in summaries if _is_file_in(summary.filename, folder)] or summaries
    return f"{last[-1].filename}:{last[-1].lineno}"
