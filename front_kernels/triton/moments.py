"""Sums over a long axis of which few coefficients are kept, by the moments of short runs of it.

A row of low frequency hardly turns within a run of `block` neighbours: there it is a polynomial of low degree. So a run
is replaced by its products with a few orthonormal polynomials (Gram's), its moments, and the row by its own; what is
summed is a few numbers for each run in place of `block`. Of e^(i f t), |t| <= 1, the moment p is about
sqrt(2 p + 1) f^p / (2 p + 1)!!: with 128 of 8192 kept and runs of 32 it is 1, 0.45, 0.09, 0.01, 0.001, ... and what
is left after eight is below float32's rounding.

Moments are float32 numbers, formed by float32 additions. They are multiplied in groups of four as sums of bfloat16
numbers, as many (one to three) as the group's size asks for: the later ones are small, and so are their errors.
"""

from __future__ import annotations

import functools
import math

__all__ = [
    "GROUP",
    "LONG",
    "PRODUCTS",
    "ROUNDED",
    "RUNS",
    "SHORTEST",
    "chosen",
    "products",
    "size",
    "weight",
    "weights",
]

GROUP = 4
"""Moments multiplied together."""
LONG = 1024
"""Least length of which moments are taken."""
SHORTEST = 16
"""Neighbours in a run, at least."""
RUNS = 8
"""Runs in a step: with GROUP moments of each, 32 terms of a product."""
MOST = 3
"""Groups that the kernels know."""
PRODUCTS = {1: 1, 2: 3, 3: 6}
"""By the bfloat16 numbers that make up each factor: all products but those below the last one's rounding."""
ROUNDED = {1: 2.5e-3, 2: 5e-6, 3: 2e-8}
"""What those leave out, of a product (root of mean square)."""
LIMITS = {"half": 5e-6, "single": 3e-7}
"""Of what the sums may leave out, relative, by what is asked for."""


def weight(block: int, p: int, r: int) -> float:
    """At point r of `block`, the polynomial of degree p of those that are orthonormal on them, by their recurrence.

    NOTE: Triton evaluates this for the kernels, and knows Python's own functions only.
    """
    t = [i - (block - 1) / 2 for i in range(block)]
    before, row = [0.0] * block, [1.0] * block
    for q in range(p):
        c = q * q * (block * block - q * q) / (4 * (4 * q * q - 1))
        before, row = row, [x * a - c * b for x, a, b in zip(t, row, before)]  # noqa: B905
    norm: float = sum([value * value for value in row]) ** 0.5
    return row[r] / norm


def weights(block: int, count: int) -> list[list[float]]:
    """All of `count` polynomials."""
    return [[weight(block, p, r) for r in range(block)] for p in range(count)]


def size(n: int, k: int, block: int, p: int) -> float:
    """A bound of moment p of the k-th row, relative to the row."""
    angle = math.pi * k * block / (2 * n)
    return min(1.0, math.sqrt(2 * p + 1) * math.prod(angle / (2 * i + 1) for i in range(1, p + 1)))


@functools.cache
def chosen(n: int, k: int, block: int, asked: str) -> tuple[int, ...] | None:
    """bfloat16 numbers for each group of moments, by what is asked for. None: too many."""
    limit = LIMITS[asked]
    found: list[int] = []
    while not found or size(n, k, block, GROUP * len(found)) > limit:
        largest = size(n, k, block, GROUP * len(found))
        found.append(next((terms for terms, lost in ROUNDED.items() if largest * lost <= limit), max(ROUNDED)))
        if len(found) > MOST:
            return None
    return tuple(found)


def needed(n: int, k: int, block: int, asked: str) -> int:
    """How many moments are not below the limit, four at least."""
    return max(GROUP, next(p for p in range(GROUP * MOST + 1) if size(n, k, block, p) <= LIMITS[asked]))


def products(terms: tuple[int, ...], block: int) -> float:
    """bfloat16 products for each element of the sums."""
    return sum(PRODUCTS[each] for each in terms) * GROUP / block
