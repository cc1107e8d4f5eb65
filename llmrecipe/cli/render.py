"""How errors and numbers are shown."""

import sys

from llmrecipe.errors import LLMRecipeError, LoadError, Violation
from llmrecipe.foreign import foreign


def show_error(error: LLMRecipeError) -> None:
    """Print an error without a traceback, except the user's own."""
    if isinstance(error, LoadError) and error.traceback:
        print(foreign(error.traceback), file=sys.stderr, end="")
    text = foreign(str(error))
    print(f"error: {text}" if "\n" not in text else f"errors:\n{text}", file=sys.stderr)


def show_warning(warning: Violation) -> None:
    """Print something that will work, but badly."""
    print(f"warning: {foreign(str(warning))}", file=sys.stderr)


def parameters(number: int) -> str:
    """`4.2 M`: a number of parameters, to two digits or three."""
    for size, unit in ((10**9, "B"), (10**6, "M"), (10**3, "k")):
        if number >= size:
            return f"{number / size:.1f} {unit}"
    return str(number)
