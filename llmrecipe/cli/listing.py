"""Which recipes a folder has, told from the text of its files: nothing of them runs."""

import ast
from collections.abc import Iterator, Sequence
from pathlib import Path

from llmrecipe.errors import LoadError
from llmrecipe.loader import MACHINES_FILE, RECIPES_DIR

_WORD = "Recipe"


def named_or_only(references: Sequence[str], folder: Path = RECIPES_DIR) -> list[str]:
    """The recipes that a command was given, with all of a folder in the place of its name; by default the only one.

    Raises:
        LoadError: none was given and `folder` has none or several, or a named folder has none.
    """
    if references:
        return [recipe for each in references for recipe in _expanded(each)]
    if not folder.is_dir():
        raise LoadError(f"no folder {folder} here; go to the project's folder, or make one with `llmrecipe init`")
    found = recipes_in(folder) or _none_in(folder)
    if len(found) > 1:
        raise LoadError(f"{folder}/ has several recipes; name one, or {folder}/ for all: {', '.join(found)}")
    return found


def one(reference: str | None = None) -> str:
    """The recipe that a command was given, if it takes one; by default the only one.

    Raises:
        LoadError: as by `named_or_only`, or the named folder has several.
    """
    found = named_or_only([] if reference is None else [reference])
    if len(found) > 1:
        raise LoadError(f"{reference}: has several recipes; name one: {', '.join(found)}")
    return found[0]


def recipes_in(folder: Path) -> list[str]:
    """References to the recipes of the Python files in a folder, sorted."""
    files = [file for file in sorted(folder.glob("*.py")) if file.name != MACHINES_FILE and file.name[0] != "_"]
    return [reference for file in files for reference in _references(file)]


def _expanded(reference: str) -> list[str]:
    folder = Path(reference)
    # `quickstart` is the recipe, though there may be a folder of that name; `./quickstart` and `quickstart/` are not.
    if ("/" not in reference and folder != RECIPES_DIR) or not folder.is_dir():
        return [reference]
    return recipes_in(folder) or _none_in(folder)


def _none_in(folder: Path) -> list[str]:
    raise LoadError(f"{folder}/ has no recipe: a function without arguments that returns a {_WORD}")


def _references(file: Path) -> list[str]:
    name = file.stem if file.parent == RECIPES_DIR else file.as_posix()
    try:
        body = ast.parse(file.read_bytes()).body
    except (SyntaxError, ValueError):
        # What is wrong with it is told when it is loaded.
        return [name]
    functions = [each.name for each in body if isinstance(each, ast.FunctionDef) and _makes_recipe(each)]
    return [name] if len(functions) == 1 else [f"{file.as_posix()}:{function}" for function in functions]


def _makes_recipe(function: ast.FunctionDef) -> bool:
    given = function.args
    needed = len(given.posonlyargs) + len(given.args) - len(given.defaults) + given.kw_defaults.count(None)
    if function.name.startswith("_") or needed:
        return False
    where = [function.returns] if function.returns is not None else function.body
    return any(_WORD in _names(node) for node in where)


def _names(node: ast.AST) -> Iterator[str]:
    for each in ast.walk(node):
        if isinstance(each, ast.Name):
            yield each.id
        elif isinstance(each, ast.Attribute):
            yield each.attr
        elif isinstance(each, ast.Constant) and isinstance(each.value, str):
            yield each.value
