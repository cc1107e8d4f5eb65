"""Whether a model is as often right as it is sure (Guo et al. 2017, arXiv:1706.04599)."""

from collections.abc import Sequence

import attrs

_BINS = 10


@attrs.frozen
class Bin:
    """Answers that were held about as likely."""

    answers: int
    """How many they are."""

    sure: float
    """How likely they were held, in the mean."""

    right: float
    """The share of them that is right."""


def bins_of(sure: Sequence[tuple[float, bool]]) -> list[Bin]:
    """Answers by tenths of how likely they were held; tenths without any are left out.

    Args:
        sure: how likely each answer was held, from 0 to 1, and whether it is right.
    """
    found: dict[int, list[tuple[float, bool]]] = {}
    for chance, is_right in sure:
        found.setdefault(min(int(chance * _BINS), _BINS - 1), []).append((chance, is_right))
    return [
        Bin(len(each), sum(chance for chance, _ in each) / len(each), sum(is_right for _, is_right in each) / len(each))
        for _, each in sorted(found.items())
    ]


def calibration_error(bins: Sequence[Bin]) -> float:
    """The expected calibration error: how far sureness and share of right answers are apart, in the mean of answers."""
    return sum(each.answers * abs(each.sure - each.right) for each in bins) / sum(each.answers for each in bins)
