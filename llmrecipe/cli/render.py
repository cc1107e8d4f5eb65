"""How errors and numbers are shown."""

import sys

from llmrecipe.errors import LLMRecipeError, LoadError, Violation


def show_error(error: LLMRecipeError) -> None:
    """Print an error without a traceback, except the user's own."""
    if isinstance(error, LoadError) and error.traceback:
        print(error.traceback, file=sys.stderr, end="")
    print(f"error: {error}" if "\n" not in str(error) else f"errors:\n{error}", file=sys.stderr)


def show_warning(warning: Violation) -> None:
    """Print something that will work, but badly."""
    print(f"warning: {warning}", file=sys.stderr)


def parameters(number: int) -> str:
    """`4.2 M`: a number of parameters, to two digits or three."""
    for size, unit in ((10**9, "B"), (10**6, "M"), (10**3, "k")):
        if number >= size:
            return f"{number / size:.1f} {unit}"
    return str(number)
