"""The words of the language as a user writes them: `Llama`, `clean.ExactDedup`."""

from difflib import get_close_matches
from types import ModuleType

import llmrecipe


def rooms() -> dict[str, ModuleType]:
    """The modules that hold words of one kind, by name."""
    return {name: value for name in llmrecipe.__all__ if isinstance(value := getattr(llmrecipe, name), ModuleType)}


def words() -> dict[str, list[str]]:
    """By its last part, each word as it is written: `{"ExactDedup": ["clean.ExactDedup"]}`."""
    found = {name: [name] for name in llmrecipe.__all__}
    for room, module in rooms().items():
        for name in module.__all__:
            found.setdefault(name, []).append(f"{room}.{name}")
    return found


def near(given: str, room: str = "") -> str | None:
    """The word that was most likely meant by a name, of a room if it was looked for there; None if none is near."""
    known = words()
    inside = [name for name, written in known.items() if room and any(each.startswith(f"{room}.") for each in written)]
    found = [given] if given in known else get_close_matches(given, inside, n=1) or get_close_matches(given, known, n=1)
    if not found:
        return None
    written = known[found[0]]
    return next((each for each in written if room and each.startswith(f"{room}.")), written[0])
