"""What a process asks for: to end with its parent, to keep its memory, or to give it back, and to keep its imports."""

import ctypes
import gc
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD, _M_MMAP_MAX = -1, -2, -3, -4
_LEAST_TRIM = 128 << 10
"""glibc's own."""


def die_with_parent(parent: int, number: signal.Signals = signal.SIGTERM) -> None:
    """Ask Linux to send this process `number` when its parent dies, whatever kills the parent.

    Without it a run whose `dvc` was killed continues as an orphan, next to the one that the next `dvc repro` starts.

    Args:
        parent: the process that started this one, as it knows itself: it may have died before this line, and whoever
            has taken its place is no parent to die with.
        number: what is sent.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, int(number), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != parent:
        os.kill(os.getpid(), number)


def import_safely() -> None:
    """Let no Python process that this one starts import from its working folder, the user's project.

    A `signal.py` there would take the place of the standard library's, in workers that begin with `python -c`.
    """
    os.environ["PYTHONSAFEPATH"] = "1"


def begin_worker(parent: int) -> None:
    """Begin a process of a pool: it ends with its parent, and leaves Ctrl-C to it.

    In this module so a worker does it before it imports what its work needs, which can take seconds.
    """
    die_with_parent(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def ancestors() -> Iterator[int]:
    """The parent of this process, its parent, and so on."""
    process = os.getpid()
    while process > 1:
        try:
            # The name, in parentheses, may hold anything; the state and the parent come after it.
            process = int(Path(f"/proc/{process}/stat").read_text(errors="replace").rpartition(")")[2].split()[1])
        except FileNotFoundError:
            return
        yield process


def keep_freed_memory() -> None:
    """Ask glibc to hand freed memory out again instead of returning it to the system.

    A training step frees and takes the same large tensors over and over; getting each from the system again, page by
    page, costs more than a tenth of a step on a CPU. Other C libraries have no such setting, and are left alone.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        # Nothing in mappings of its own: a threshold can't exceed 32 MiB, and the logits of a batch can.
        libc.mallopt(_M_MMAP_MAX, 0)
        libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
        libc.mallopt(_M_TOP_PAD, 64 << 20)


def return_freed_memory() -> None:
    """Ask glibc to return the memory of every large tensor to the system as soon as it is freed.

    By itself it soon takes tensors of up to 32 MiB from one heap, where whatever small lies behind them holds the
    memory of a whole model that went through.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(_M_MMAP_THRESHOLD, 1 << 20)


def keep_imported() -> None:
    """Let Python's search for what nothing uses any more pass over all there is by now.

    Torch, transformers and llmcompressor are half a million objects, which never go. To look through them takes 0.3 s
    each time, as long as to round a small model.
    """
    gc.freeze()


@contextmanager
def freed_memory_used_again() -> Iterator[None]:
    """Meanwhile, glibc hands freed memory out again, and afterwards returns what is free of it, and does as before.

    In a process of `return_freed_memory`, for work that takes and frees tensors of the same few sizes over and over.
    Each would be zeroed by the system, page by page, which takes as long as to add two of them.
    """
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallopt"):
        yield
        return
    libc.mallopt(_M_MMAP_THRESHOLD, 32 << 20)
    libc.mallopt(_M_TRIM_THRESHOLD, 64 << 20)
    try:
        yield
    finally:
        libc.mallopt(_M_TRIM_THRESHOLD, _LEAST_TRIM)
        return_freed_memory()
        # Also between what is in use.
        libc.malloc_trim(0)
