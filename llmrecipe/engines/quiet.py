"""What libraries say and nobody can use: progress bars where there is no terminal, and kernels that aren't needed."""

import logging
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


_UNUSED = {
    # On a machine without CUDA's libraries, of kernels for formats that nothing here computes in.
    "torchao": "Failed to load ",
    "torchao.kernel.intmm": "Detected no triton, ",
    # Of what torchao registers with torch.
    "torch.utils._pytree": "Calling register_constant() on Enum subclasses is deprecated",
}
"""What is logged as torchao is imported, by logger; transformers imports it wherever it is installed."""


def hide_unused_kernels() -> None:
    """Hide in this process that torchao can't load kernels which nothing here uses."""
    for name in _UNUSED:
        logging.getLogger(name).addFilter(_is_of_use)


def _is_of_use(record: logging.LogRecord) -> bool:
    return _UNUSED[record.name] not in record.getMessage()
