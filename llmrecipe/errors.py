"""What can go wrong, in the user's words."""

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
    """A recipe, or one section of `params.yaml`, can't work; carries every violation found."""

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


class StageError(LLMRecipeError):
    """A stage can't do its work with this section and these inputs."""
