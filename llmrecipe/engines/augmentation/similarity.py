"""How near a text is to another, by chrF: no model, and equal on every machine."""

import numpy as np

_LONGEST = 6
"""Characters of the longest n-grams, as published."""

_BETA = 2
"""How many times recall, of the source, counts as much as precision, as published."""

_BASE = np.uint64(0x9E3779B97F4A7C15)
"""An odd number, whose multiples modulo 2**64 are well mixed."""


def chrf(text: str, source: str) -> float:
    """chrF (Popović 2015) of `text` to `source`, from 0 to 1: n-grams of 1 to 6 characters that they have in common.

    As sacreBLEU counts it: without white space, the F-score of mean precision and mean recall over the lengths that
    both texts reach. n-grams are told apart by a hash of 64 bits, so a text of any length takes a few numbers a
    character.
    """
    ours, theirs = _code_points(text), _code_points(source)
    orders = min(_LONGEST, len(ours), len(theirs))
    if orders == 0:
        return float(len(ours) == len(theirs))
    precision = recall = 0.0
    our_hashes, their_hashes = ours, theirs
    for order in range(1, orders + 1):
        common = _common(our_hashes, their_hashes)
        precision += common / len(our_hashes) / orders
        recall += common / len(their_hashes) / orders
        our_hashes, their_hashes = _longer(our_hashes, ours, order), _longer(their_hashes, theirs, order)
    if precision + recall == 0:
        return 0.0
    return (1 + _BETA**2) * precision * recall / (_BETA**2 * precision + recall)


def _code_points(text: str) -> np.ndarray:
    return np.frombuffer("".join(text.split()).encode("utf-32-le"), dtype="<u4").astype(np.uint64)


def _longer(hashes: np.ndarray, characters: np.ndarray, order: int) -> np.ndarray:
    """Hashes of the n-grams of `order + 1` characters, from those of `order`."""
    return hashes[:-1] * _BASE + characters[order:]


def _common(ours: np.ndarray, theirs: np.ndarray) -> int:
    """Items in common, each as often as the one that has it less often."""
    our_items, our_counts = np.unique(ours, return_counts=True)
    their_items, their_counts = np.unique(theirs, return_counts=True)
    _, at_ours, at_theirs = np.intersect1d(our_items, their_items, assume_unique=True, return_indices=True)
    return int(np.minimum(our_counts[at_ours], their_counts[at_theirs]).sum())
