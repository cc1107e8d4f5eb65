"""What a model has to show before it is released."""

import attrs

from llmrecipe.recipe.kinds import Gate
from llmrecipe.recipe.schema import define
from llmrecipe.recipe.validators import between, greater_than, not_empty

__all__ = [
    "Recovery",
    "Score",
    "Size",
    "Speed",
]

LEAST_DOCUMENTS = 30
"""Documents that an interval of a recovery needs: of fewer, drawing some twice and others not says little."""

LEAST_OF_CORPUS = 5
"""The same of each corpus of a mixture: one document alone would be drawn as it is every time."""

NEEDED = f"gate.Recovery needs at least {LEAST_DOCUMENTS} held-out documents, of each corpus {LEAST_OF_CORPUS}"
"""What a message says of both."""


@define("recovery")
class Recovery(Gate):
    """How much of the quality of the recipe's first model is left: its perplexity over that of the candidate, or the
    ratio of another number that is measured of each document.

    A candidate passes if the whole of the 95 % interval of its recovery, by held-out documents, is above the bound:
    the text might have been another. The first model itself has a recovery of 1.
    """

    at_least: float = attrs.field(validator=greater_than(0, 2))
    """Bound on the lower end of the interval; 0.98 is 98 %. More than 1 asks for a better model than the first."""

    measure: str = attrs.field(default="perplexity", validator=not_empty)
    """The name of the measure that gives what is compared."""

    number: str | None = attrs.field(default=None)
    """The number's name in the measurement: a score of a measure of your own that is a `CustomScores`, or
    `pseudo_perplexity`; None for the perplexity of a `Perplexity`."""


@define("size")
class Size(Gate):
    """How large the weights files are."""

    at_most_mb: float = attrs.field(validator=greater_than(0, 1e12))
    """Megabytes, of 10^6 bytes."""


@define("score")
class Score(Gate):
    """A number of a measure, as it is: an accuracy, or the perplexity itself."""

    number: str = attrs.field(validator=not_empty)
    """The number's name in the measurement: `masked_accuracy_percent`."""

    measure: str = attrs.field(default="perplexity", validator=not_empty)
    """The name of the measure that gives it."""

    at_least: float | None = attrs.field(default=None, validator=between(-1e12, 1e12))
    """The least that passes."""

    at_most: float | None = attrs.field(default=None, validator=between(-1e12, 1e12))
    """The most that passes."""


@define("speed")
class Speed(Gate):
    """Held-out tokens a second that a measurement read, on a kind of machine.

    A time isn't part of what a stage leaves, and another run measures another: a release that passes by it says so.
    """

    at_least: float = attrs.field(validator=greater_than(0, 1e12))
    """Tokens a second."""

    processor: str = attrs.field(validator=not_empty)
    """The processor that it is measured on, by its name, as `llmrecipe compare` shows it."""

    measure: str = attrs.field(default="perplexity", validator=not_empty)
    """The name of the measure that is timed, one that reads held-out tokens."""
