"""Which files of Python's standard library, and of installed packages, are text to learn from."""

import platform
import re
import sys
import sysconfig
import tokenize
from collections.abc import Iterable
from importlib.metadata import distribution
from pathlib import Path, PurePath

from llmrecipe import origins
from llmrecipe.errors import StageError

_TEST_FOLDERS = {"test", "tests", "idle_test"}

_TABLES = {"html/entities.py", "pydoc_data/topics.py"}
"""Tables that don't say in the same way in every Python version that they were generated."""

_GENERATED = re.compile(r"auto-?generated|automatically generated|this file is generated|\bgencodec\b", re.IGNORECASE)
"""How the head of a generated module says so."""

_CHARACTER_MAP = re.compile(r"^decoding_(table|map) = ", re.MULTILINE)
"""What the single-byte codecs of `encodings` consist of, whether or not they say that they were generated."""

_HEAD = 500


def refuse_version(version: str | None, where: str) -> None:
    """Refuse to read the standard library of another Python than the one that is asked for.

    Args:
        version: of Python, `3.11.7`; None for the running one.
        where: the source's place in the recipe, for messages.

    Raises:
        StageError: another one runs.
    """
    running = platform.python_version()
    if version not in (None, running):
        raise StageError(
            f"{where}.version: the standard library of Python {version} is asked for, and this is Python {running}; "
            "run `llmrecipe plan` with this Python to take its own, or the stage with that one"
        )


def standard_library(root: Path | None = None) -> dict[str, Path]:
    """Source files that a person wrote and that belong to the running Python's standard library.

    A file counts if its top-level module is in `sys.stdlib_module_names`, which leaves out installed packages, what
    a distribution or a virtual environment adds and the build's `_sysconfigdata`; if no folder above it holds tests;
    and if it is no generated table (character maps, keyword and token lists, help topics, Unicode tables).

    Args:
        root: its folder, if not the running Python's.

    Returns:
        By POSIX path below the folder, sorted. It depends on the Python version, and on modules that a distribution
        leaves out.
    """
    root = root or Path(sysconfig.get_paths()["stdlib"])
    names = (path.relative_to(root) for path in root.rglob("*.py"))
    return _hand_written(
        {name: root / name for name in names if name.parts[0].removesuffix(".py") in sys.stdlib_module_names}
    )


def installed(packages: Iterable[str], where: str) -> dict[str, Path]:
    """Source files of these packages that a person wrote, by the same rules.

    Args:
        packages: each as `name==version`.
        where: the source's place in the recipe, for messages.

    Returns:
        By POSIX path below the folder of installed packages, sorted.

    Raises:
        StageError: another version is installed or none, or a package holds no source code.
    """
    found: dict[str, Path] = {}
    for package in packages:
        refused = origins.package_refusal(package)
        if refused:
            raise StageError(f"{where}.packages: {refused}")
        # An editable installation has nothing but a module that leads to the source code.
        files = {
            PurePath(file): Path(file.locate())
            for file in distribution(package.partition("==")[0]).files or ()
            if file.suffix == ".py" and ".." not in file.parts and not file.name.startswith("__editable__")
        }
        modules = _hand_written(files)
        if not modules:
            raise StageError(
                f"{where}.packages: {package!r} holds no source code where it is installed; install it from a "
                "wheel, and not as editable"
            )
        found |= modules
    return dict(sorted(found.items()))


def _hand_written(files: dict[PurePath, Path]) -> dict[str, Path]:
    found = {
        name.as_posix(): path
        for name, path in files.items()
        if not _TEST_FOLDERS & set(name.parts) and name.as_posix() not in _TABLES and _is_hand_written(path)
    }
    return dict(sorted(found.items()))


def _is_hand_written(path: Path) -> bool:
    try:
        with tokenize.open(path) as file:
            text = file.read()
    except (SyntaxError, UnicodeDecodeError):
        # No module, whatever its name: a template, or the data of a test.
        return False
    return not _GENERATED.search(text[:_HEAD]) and not _CHARACTER_MAP.search(text)
