"""The likeliest sequence of tags that IOB2 allows (Viterbi 1967)."""

from collections.abc import Sequence

import numpy as np


def may_follow(before: str | None, tag: str) -> bool:
    """Whether a tag of IOB2 may be behind another, or at the beginning (None): an `I-` only within its entity."""
    prefix, _, kind = tag.partition("-")
    return prefix != "I" or (before is not None and before != "O" and before.partition("-")[2] == kind)


def likeliest(logs: np.ndarray, labels: Sequence[str]) -> list[int]:
    """The allowed sequence of labels with the largest sum of logarithms; of equal ones, that of the first labels.

    Args:
        logs: of the probabilities of each word's labels, `float[words, labels]`.
        labels: tags of IOB2.
    """
    penalty = np.array([[0.0 if may_follow(one, other) else -np.inf for other in labels] for one in labels])
    best = logs[0] + np.array([0.0 if may_follow(None, label) else -np.inf for label in labels])
    came_from = []
    for row in logs[1:]:
        through = best[:, None] + penalty
        came_from.append(through.argmax(axis=0))
        best = through.max(axis=0) + row
    path = [int(best.argmax())]
    for origin in reversed(came_from):
        path.append(int(origin[path[-1]]))
    return path[::-1]
