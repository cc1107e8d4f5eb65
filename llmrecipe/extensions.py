"""Modules of the user's own that define words of the language, next to the recipes that use them.

The code of such a word is not part of its identity: a field `revision` of its own, raised by hand, says that it does
something else now.
"""

import importlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from llmrecipe.errors import LoadError
from llmrecipe.recipe.schema import Word, file_of, parts

_OURS = Path(__file__).parent


def load_extension(path: Path) -> None:
    """Import a module by its file, also in processes that this one starts from now on.

    Raises:
        LoadError: it isn't there, or can't be imported.
    """
    folder, name = str(path.resolve().parent), path.stem
    if not path.is_file():
        raise LoadError(f"{path}: no such file, and words of a stage's section are defined there")
    for module in sorted(path.parent.glob("*.py")):
        if module.stem in sys.stdlib_module_names:
            raise LoadError(
                f"{module}: has the name of a module of Python's standard library, and the processes of a stage import "
                f"{path.name} from the same folder; rename it"
            )
    if folder not in sys.path:
        sys.path.append(folder)
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH", ""), folder]))
    try:
        importlib.import_module(name)
    except Exception as error:
        raise LoadError(f"{path}: failed with {type(error).__name__}: {error}") from error


def modules_of(value: Word) -> list[str]:
    """The modules outside this package that define `value` and what is below it, sorted.

    Processes that this one starts can import them once it has loaded them.
    """
    return sorted({type(word).__module__ for word in _words(value) if _is_theirs(type(word))})


def extensions_of(value: Word, root: Path) -> list[str]:
    """The files outside this package that define `value` and what is below it, relative to `root`, sorted.

    Raises:
        LoadError: a word is defined in a recipe's own file, which processes of a stage can't import, or elsewhere.
    """
    return sorted({_relative(type(word), root) for word in _words(value) if _is_theirs(type(word))})


def _words(value: Word) -> Iterator[Word]:
    yield value
    for _, part in parts(value, ""):
        yield from _words(part)


def _is_theirs(cls: type[Word]) -> bool:
    return _OURS not in file_of(cls).parents


def _relative(cls: type[Word], root: Path) -> str:
    file = file_of(cls).resolve()
    if cls.__module__.partition(":")[2]:
        raise LoadError(
            f"{file}: {cls.__name__} is defined in a recipe's own file, which a stage can't import; move it to a "
            f"module next to it and import it from there"
        )
    if not file.is_relative_to(root.resolve()):
        raise LoadError(f"{file}: defines {cls.__name__} outside of the project; put it next to the recipes")
    return file.relative_to(root.resolve()).as_posix()
