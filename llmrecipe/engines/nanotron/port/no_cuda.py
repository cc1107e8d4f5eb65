"""What nanotron sees as `torch.cuda` on a machine without one: nothing to set, to wait for or to count."""

from contextlib import nullcontext as device

__all__ = ["device"]


def is_available() -> bool:
    """Always false."""
    return False


def set_device(_: object) -> None:
    """There is one device."""


def synchronize() -> None:
    """Work on a CPU is done when the call returns."""


def empty_cache() -> None:
    """There is no cache."""


def reset_peak_memory_stats() -> None:
    """No statistics are kept."""


def memory_allocated() -> int:
    """Bytes on a GPU: none."""
    return 0


max_memory_allocated = max_memory_reserved = memory_allocated
