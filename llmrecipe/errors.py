"""What can go wrong, in the user's words."""

import errno
import os
import re
from collections.abc import Iterable, Sequence
from difflib import get_close_matches

import attrs


def suggestion(given: str, known: Sequence[str]) -> str:
    """The end of a message about a name that isn't known: the nearest that is, and all of them."""
    near = get_close_matches(given, known, n=1)
    listed = f"known: {', '.join(known)}" if known else "there are none"
    return f"; did you mean {near[0]!r}? ({listed})" if near else f"; {listed}"


@attrs.frozen
class Violation:
    """One thing that is wrong with a recipe or a section."""

    path: str
    """Where it is: `quickstart.parallelism.tensor`."""

    reason: str
    """What was given, why it can't work and what would."""

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


class LLMRecipeError(Exception):
    """Base of the errors that the command line prints without a traceback."""


class RecipeError(LLMRecipeError):
    """A recipe, or one section of the parameters, can't work; carries every violation found."""

    def __init__(self, violations: Iterable[Violation]) -> None:
        self.violations = tuple(violations)
        super().__init__("\n".join(map(str, self.violations)))


class LoadError(LLMRecipeError):
    """A recipe can't be found, imported or called; `traceback` holds the user's own, if there is one."""

    def __init__(self, message: str, traceback: str | None = None) -> None:
        self.traceback = traceback
        super().__init__(message)


class PlanError(LLMRecipeError):
    """Valid recipes that can't be planned together or written into these files."""


class ProjectError(LLMRecipeError):
    """A folder can't be made a project."""


class StageError(LLMRecipeError):
    """A stage can't do its work with this section and these inputs."""


_WAYS_OUT = {
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some of your quota",
    errno.EROFS: "make it writable",
    errno.EACCES: "give yourself the permission",
    errno.EPERM: "give yourself the permission",
    errno.ENOTDIR: "a file is where a folder should be, move it away",
    errno.EISDIR: "a folder is where a file should be, move it away",
    errno.ENAMETOOLONG: "a name may have 255 bytes and a path 4,095, shorten it",
    errno.ELOOP: "links lead to each other, mend one of them",
}


def refusal(error: BaseException | None) -> str | None:
    """What the operating system refused and what to do about it, if that is the cause of `error`: a full disk, say.

    Libraries written in Rust turn the system's errors into ones of their own, with the number in their text.
    """
    while error is not None:
        quoted = re.search(r"\(os error (\d+)\)", str(error))
        number = error.errno if isinstance(error, OSError) else quoted and int(quoted[1])
        if number in _WAYS_OUT:
            file = getattr(error, "filename", None)
            place = f"{file}: " if file else ""
            return f"{place}{os.strerror(number)}; {_WAYS_OUT[number]}, then run this again"
        error = error.__cause__ or error.__context__
    return None
