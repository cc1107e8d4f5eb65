"""What a user's code did wrong with the words of the language, in words of its own."""

import re
from collections.abc import Iterator
from types import TracebackType

import attrs

from llmrecipe import catalogue
from llmrecipe.errors import suggestion
from llmrecipe.recipe import evolve
from llmrecipe.recipe.schema import Word


def of_fields(error: BaseException) -> str | None:
    """A call of a word with the wrong fields, or of `evolve`; None for any other error."""
    if not isinstance(error, TypeError):
        return None
    if _raised_in(error.__traceback__) == evolve.__file__:
        return str(error)
    call = re.match(r"([\w.]+)\.__init__\(\) (.*)", str(error), re.DOTALL)
    cls = next((cls for cls in _subclasses(Word) if call and cls.__qualname__ == call[1]), None)
    if call is None or cls is None:
        return None
    fields = [field.alias or field.name for field in attrs.fields(cls)]
    unknown = re.match(r"got an unexpected keyword argument '(\w+)'", call[2])
    if unknown:
        return f"{cls.__name__} has no field {unknown[1]!r}{suggestion(unknown[1], fields)}"
    if call[2].startswith("missing"):
        missing = re.findall(r"'(\w+)'", call[2])
        return f"{cls.__name__} needs {', '.join(missing)}"
    return f"{cls.__name__} takes its fields by name: {cls.__name__}({', '.join(f'{name}=…' for name in fields)})"


def hint(error: BaseException) -> str:
    """The end of a message about a name that isn't known: the word that was meant, with its room; empty if none was."""
    given, room = _unknown(error)
    near = catalogue.near(given, room) if given else None
    if near is None:
        return ""
    return f"; import it: `from llmrecipe import {near}`" if near == given else f"; did you mean {near!r}?"


def _unknown(error: BaseException) -> tuple[str | None, str]:
    """The name that wasn't found and the room where it was looked for; None if that was not in the language."""
    if isinstance(error, NameError):
        return error.name, ""
    if isinstance(error, AttributeError):
        room = _room(error.obj)
        return (error.name if room else None), room
    found = re.match(r"cannot import name '(\w+)' from 'llmrecipe(?:\.recipe\.(\w+))?'", str(error))
    return (found[1], found[2] or "") if found and isinstance(error, ImportError) else (None, "")


def _room(owner: object) -> str:
    """How a module of the language is written; empty for any other object."""
    if owner is catalogue.llmrecipe:
        return "llmrecipe"
    return next((name for name, module in catalogue.rooms().items() if module is owner), "")


def _raised_in(frames: TracebackType | None) -> str | None:
    last = None
    while frames is not None:
        last, frames = frames.tb_frame.f_code.co_filename, frames.tb_next
    return last


def _subclasses(cls: type[Word]) -> Iterator[type[Word]]:
    """All classes below `cls`, the newest first: a file that was read again defines the same one again."""
    found: list[type] = cls.__subclasses__()
    for below in reversed(found):
        yield below
        yield from _subclasses(below)
