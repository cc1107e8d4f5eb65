"""The only importers of the heavy libraries."""

import sys
from typing import Any

from tqdm import tqdm

_initialize = tqdm.__init__


def _initialize_hidden(self: tqdm, *arguments: Any, **options: Any) -> None:
    _initialize(self, *arguments, **options | {"disable": True})


# The libraries' bars are for terminals: in a log each would be a line for every update. Some insist on theirs, so
# that TQDM_DISABLE is not enough.
if not sys.stderr.isatty():
    tqdm.__init__ = _initialize_hidden
