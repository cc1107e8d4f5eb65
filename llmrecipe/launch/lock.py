"""One writer at a time."""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from llmrecipe.errors import StageError


@contextmanager
def exclusive(path: Path, what: str) -> Iterator[None]:
    """Hold the lock file `path` to the end of the block, or of this process.

    Raises:
        StageError: another process holds it; names the process and `what` it is doing.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(descriptor, 32).decode().strip()
            raise StageError(f"{path}: process {holder} is {what}; wait until it is done, or stop it") from None
        os.truncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        yield
    finally:
        os.close(descriptor)


def is_held(path: Path) -> bool:
    """Whether a process holds the lock file `path`."""
    if not path.exists():
        return False
    with open(path, "rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def wait_until_free(path: Path, seconds: float) -> None:
    """Wait until no process holds the lock file `path`.

    Raises:
        StageError: one still does after `seconds`.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
    deadline = time.monotonic() + seconds
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise StageError(
                        f"{path}: a process of an earlier run still holds this folder; find it with `fuser {path}`, "
                        "end it and run `dvc repro` again"
                    ) from None
                time.sleep(0.1)
    finally:
        os.close(descriptor)
