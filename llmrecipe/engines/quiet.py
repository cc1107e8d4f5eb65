"""The libraries' progress bars, which are for terminals."""

import sys
from typing import Any

from tqdm import tqdm

_initialize = tqdm.__init__


def hide_progress_bars() -> None:
    """Hide them in this process, unless it writes to a terminal: in a log each would be a line for every update.

    Some libraries insist on theirs, so TQDM_DISABLE is not enough.
    """
    if not sys.stderr.isatty():
        tqdm.__init__ = _initialize_hidden  # type: ignore[method-assign]


def _initialize_hidden(self: tqdm, *arguments: Any, **options: Any) -> None:
    _initialize(self, *arguments, **options | {"disable": True})
