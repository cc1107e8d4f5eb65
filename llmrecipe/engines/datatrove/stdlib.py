"""Which files of Python's standard library are text to learn from."""

import re
import sys
import sysconfig
from pathlib import Path

_TEST_FOLDERS = {"test", "tests", "idle_test"}

_TABLES = {"html/entities.py", "pydoc_data/topics.py"}
"""Tables that don't say in the same way in every Python version that they were generated."""

_GENERATED = re.compile(r"auto-?generated|automatically generated|this file is generated|\bgencodec\b", re.IGNORECASE)
"""How the head of a generated module says so."""

_CHARACTER_MAP = re.compile(r"^decoding_(table|map) = ", re.MULTILINE)
"""What the single-byte codecs of `encodings` consist of, whether or not they say that they were generated."""

_HEAD = 500


def folder() -> Path:
    """The running Python's standard library."""
    return Path(sysconfig.get_paths()["stdlib"])


def modules(root: Path) -> list[str]:
    """Source files below `root` that a person wrote and that belong to the standard library, sorted.

    A file counts if its top-level module is in `sys.stdlib_module_names`, which leaves out installed packages, what
    a distribution or a virtual environment adds and the build's `_sysconfigdata`; if no folder above it holds tests;
    and if it is no generated table (character maps, keyword and token lists, help topics, Unicode tables).

    Returns:
        Relative POSIX paths. They depend on the Python version, and on modules that a distribution leaves out.
    """
    found = []
    for path in root.rglob("*.py"):
        name = path.relative_to(root)
        if name.parts[0].removesuffix(".py") not in sys.stdlib_module_names or _TEST_FOLDERS & set(name.parts):
            continue
        text = path.read_text(encoding="utf-8")
        if name.as_posix() in _TABLES or _GENERATED.search(text[:_HEAD]) or _CHARACTER_MAP.search(text):
            continue
        found.append(name.as_posix())
    return sorted(found)
