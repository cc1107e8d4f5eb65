"""What a part of the check has found."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import attrs

Row = Mapping[str, Any]
"""A line of a table: what stands in each column."""

Status = Literal["passed", "failed", "skipped", "broken", "timed out"]
"""`failed`: it has found what may not be; `broken`: it has found nothing, since it ended by an error."""


@attrs.frozen(kw_only=True)
class Outcome:
    """What a part has found, when it has come to its end."""

    tables: Mapping[str, Sequence[Row]] = attrs.field(factory=dict)
    """By title."""

    failures: Sequence[str] = ()
    """What may not be, in sentences."""

    skipped: str = ""
    """Why it has looked at nothing, if so."""

    @property
    def status(self) -> Status:
        """What that comes to."""
        if self.skipped:
            return "skipped"
        return "failed" if self.failures else "passed"


@attrs.frozen(kw_only=True)
class Finding:
    """A part's line of the report."""

    name: str
    """The part."""

    title: str
    """What it asks."""

    status: Status
    """What came of it."""

    seconds: float
    """How long it took."""

    reasons: Sequence[str]
    """Why it hasn't passed: failures, an error's last lines, or why it was skipped."""

    tables: Mapping[str, Sequence[Row]]
    """What it has found."""
