"""How likely one of several programs that a model writes passes."""

import math
from collections.abc import Sequence

from llmrecipe.engines.tasks.score import Score, mean
from llmrecipe.errors import StageError


def pass_at(k: int, passed: Sequence[int], written: int) -> Score:
    """pass@k: the unbiased estimator of Chen et al. 2021, 1 - C(n - c, k) / C(n, k); the mean over tasks.

    Args:
        k: how many are drawn, of which one has to pass.
        passed: how many of a task's programs passed (c).
        written: how many were written for each task (n).

    Raises:
        StageError: fewer were written than are drawn.
    """
    if k > written:
        raise StageError(f"pass@{k} can't be had of {written} programs for each task; write at least {k}")
    return mean([_one_of(k, count, written) for count in passed])


def _one_of(k: int, passed: int, written: int) -> float:
    """A product of quotients in the place of binomials, which are too large for a float; one is 0 where k > n - c."""
    return 1.0 - math.prod(1 - k / each for each in range(written - passed + 1, written + 1))
