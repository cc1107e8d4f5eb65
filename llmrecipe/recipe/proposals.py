"""Numbers that would work in place of one that doesn't, for messages."""

import math
from collections.abc import Sequence


def divisors(number: int, up_to: int) -> list[int]:
    """The divisors of `number` that aren't larger than `up_to`, in ascending order."""
    small = [divisor for divisor in range(1, math.isqrt(number) + 1) if number % divisor == 0]
    return sorted(divisor for divisor in {*small, *(number // each for each in small)} if divisor <= up_to)


def multiples_near(number: int, step: int, up_to: float = math.inf) -> list[int]:
    """The positive multiples of `step` on both sides of `number`; not the upper one if it exceeds `up_to`."""
    below = number // step * step
    if below == 0:
        return [step]
    return [below] if below + step > up_to else [below, below + step]


def largest_group(size: int, width: int) -> int:
    """The largest power of two up to `size` that divides `width`; inference kernels have no other group sizes."""
    return math.gcd(width, 1 << (size.bit_length() - 1))


def choice(numbers: Sequence[int]) -> str:
    """`1, 2 or 4`."""
    *first, last = map(str, numbers)
    return f"{', '.join(first)} or {last}" if first else last
