"""Numbers that would work in place of one that doesn't, for messages."""

import math
from collections.abc import Sequence


def divisors(number: int, up_to: int) -> list[int]:
    """The divisors of `number` that aren't larger than `up_to`, in ascending order."""
    small = [divisor for divisor in range(1, math.isqrt(number) + 1) if number % divisor == 0]
    return sorted(divisor for divisor in {*small, *(number // each for each in small)} if divisor <= up_to)


def multiples_near(number: int, step: int, up_to: float = math.inf, down_to: int = 1) -> list[int]:
    """The multiples of `step` on both sides of `number`, if they are between `down_to` and `up_to`.

    If neither is, the smallest that is at least `down_to`.
    """
    below = number // step * step
    near = [multiple for multiple in (below, below + step) if down_to <= multiple <= up_to]
    return near or [-(-down_to // step) * step]


def largest_group(size: int, width: int) -> int:
    """The largest power of two up to `size` that divides `width`; inference kernels have no other group sizes."""
    return math.gcd(width, 1 << (size.bit_length() - 1))


def choice(options: Sequence[int | str]) -> str:
    """`1, 2 or 4`."""
    *first, last = map(str, options)
    return f"{', '.join(first)} or {last}" if first else last
