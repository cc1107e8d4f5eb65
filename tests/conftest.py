import logging
import os
import signal
import sys

import pytest
from hypothesis import settings

from llmrecipe.recipe import schema

settings.register_profile("llmrecipe", deadline=None, derandomize=True, max_examples=50)
settings.load_profile("llmrecipe")

_LEVELS = {logger: (logger.level, logger.propagate) for logger in (logging.getLogger(), logging.getLogger("llmrecipe"))}
# Not those of the start: a shell without job control has its background processes ignore Ctrl-C.
_SIGNALS = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}


@pytest.fixture(autouse=True)
def untouched_process():
    """Begin without what a training in this process leaves: levels of its log, signal handlers, a rank's number.

    And leave no group of ranks: in one, llmcompressor shares its tensors through another process.
    """
    for logger, (level, propagates) in _LEVELS.items():
        logger.setLevel(level)
        logger.propagate = propagates
    # pytest's own.
    for handler in logging.getLogger().handlers:
        handler.setLevel(logging.NOTSET)
    for number, handler in _SIGNALS.items():
        signal.signal(number, handler)
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        os.environ.pop(name, None)
    yield
    torch = sys.modules.get("torch")
    if torch is not None and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


@pytest.fixture(autouse=True)
def own_words():
    """Forget the words that a test defines, or loads: the next may give others the same tags."""
    before = {kind: set(schema.members(kind)) for kind in schema._members}
    yield
    for kind, known in before.items():
        for tag, word in schema.members(kind).items():
            if tag not in known and not word.__module__.startswith("llmrecipe."):
                del schema._members[kind][tag]
