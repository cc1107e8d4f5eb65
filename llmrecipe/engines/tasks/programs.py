"""Programs in what a model writes."""

import re

_FENCED = re.compile(r"```(?:python|py)?\d*[ \t]*\r?\n(.*?)(?:\n```|\Z)", re.DOTALL | re.IGNORECASE)


def program_of(answer: str, tests: str) -> str:
    """The program of an answer, with its tests behind it: the first block of code that it marks, or all of it."""
    fenced = _FENCED.search(answer)
    return f"{fenced[1] if fenced else answer}\n\n{tests}\n"
