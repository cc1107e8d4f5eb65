"""How errors and numbers are shown."""

import sys
import unicodedata

from llmrecipe.errors import LLMRecipeError, LoadError, Violation


def show_error(error: LLMRecipeError) -> None:
    """Print an error without a traceback, except the user's own."""
    if isinstance(error, LoadError) and error.traceback:
        print(foreign(error.traceback), file=sys.stderr, end="")
    text = foreign(str(error))
    print(f"error: {text}" if "\n" not in text else f"errors:\n{text}", file=sys.stderr)


def show_warning(warning: Violation) -> None:
    """Print something that will work, but badly."""
    print(f"warning: {foreign(str(warning))}", file=sys.stderr)


def foreign(text: str) -> str:
    """Text of others, such as a web page's or a model's, for a terminal: `\ufffd` for each sign that one would obey.

    Line breaks and tabs stay, every kind of space, and what joins, parts or turns letters, as Persian and emoji need.
    """
    return "".join("\ufffd" if _is_obeyed(character) else character for character in text.replace("\r\n", "\n"))


def _is_obeyed(character: str) -> bool:
    # Half of a surrogate pair can't be printed at all.
    return unicodedata.category(character) in ("Cc", "Cs") and character not in "\n\t"


def parameters(number: int) -> str:
    """`4.2 M`: a number of parameters, to two digits or three."""
    for size, unit in ((10**9, "B"), (10**6, "M"), (10**3, "k")):
        if number >= size:
            return f"{number / size:.1f} {unit}"
    return str(number)
