"""What a SpectralRegularizer keeps of each axis: its arguments, checked."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, Literal, TypeGuard, get_args

from front_models._penalties import Kept
from front_models._walk import matrix_shape

__all__ = ["Choice", "Weighting", "check_choice", "is_real"]

Weighting = Literal["box", "exponential"]
# Where the weight exp(-decay u / n) of a coefficient is less than this, the coefficient is not computed.
TOLERANCE = 1e-8


def is_real(value: object) -> TypeGuard[float]:
    """Whether it is a number, numpy's too, and no truth value."""
    return isinstance(value, Real) and not isinstance(value, bool)


@dataclass(frozen=True)
class Choice:
    """keep_ratio, k, weighting, decay and depth, checked."""

    keep_ratio: float | None
    k: tuple[int, int] | None
    decay: tuple[float, ...] | None  # (layers, rows, columns)
    depth: bool | int

    def axis(self, n: int, axis: int) -> int:
        """Coefficients kept of an axis of length n: 0 the layers, 1 rows, 2 columns."""
        if self.decay is not None:
            rate = self.decay[axis]
            most = math.inf if rate == 0 else n * math.log(1 / TOLERANCE) / rate
            return n if most >= n else max(1, math.ceil(most))
        if self.keep_ratio is not None:
            return max(1, int(n * self.keep_ratio))
        assert self.k is not None
        return n if axis == 0 else min(n, self.k[axis - 1])

    def of(self, shape: tuple[int, ...], layers: int) -> Kept:
        matrix = matrix_shape(shape)
        k = self.axis(matrix[0], 1), self.axis(matrix[1], 2)
        if not self.depth or layers < 2:
            return Kept(matrix, k, self.decay and self.decay[1:])
        kept = self.axis(layers, 0) if self.depth is True else min(self.depth, layers)
        return Kept(matrix, k, self.decay, kept)


def check_choice(keep_ratio: object, k: object, weighting: object, decay: object, depth: object) -> Choice:
    """The choice that arguments of SpectralRegularizer are.

    Raises:
        ValueError: they are none.
    """
    if weighting not in get_args(Weighting):
        raise ValueError(f"weighting: got {weighting!r}; allowed are 'box', 'exponential'")
    if not isinstance(depth, bool):
        if not isinstance(depth, Integral) or int(depth) < 1:
            raise ValueError(
                f"depth: got {depth!r}; allowed are False, True, and the number of layer coefficients kept"
            )
        depth = int(depth)
    rates = _rates(decay, bool(depth))
    if weighting == "exponential":
        if rates is None:
            raise ValueError("decay: got None; weighting='exponential' needs a rate, or one for each axis")
        for name, value in (("keep_ratio", keep_ratio), ("k", k)):
            if value is not None:
                raise ValueError(f"{name}: got {value!r}; weighting='exponential' takes decay instead")
        return Choice(None, None, rates, depth)
    if rates is not None:
        raise ValueError(f"decay: got {decay!r}; weighting='box' takes keep_ratio or k instead")
    if (keep_ratio is None) == (k is None):
        raise ValueError(f"keep_ratio, k: got {keep_ratio!r}, {k!r}; exactly one of them is needed")
    if keep_ratio is not None:
        if not is_real(keep_ratio) or not 0 < keep_ratio <= 1:
            raise ValueError(f"keep_ratio: got {keep_ratio!r}; allowed is a number in (0, 1]")
        return Choice(float(keep_ratio), None, None, depth)
    pair: list[Any] = list(k) if isinstance(k, Sequence) else [k, k]
    if len(pair) != 2 or not all(isinstance(n, Integral) and is_real(n) and int(n) >= 1 for n in pair):
        raise ValueError(f"k: got {k!r}; allowed is a whole number from 1, or two (rows, columns)")
    if depth is True:
        raise ValueError("depth: got True with k; allowed is the number of layer coefficients kept")
    return Choice(None, (int(pair[0]), int(pair[1])), None, depth)


def _rates(decay: object, depth: bool) -> tuple[float, ...] | None:
    if decay is None:
        return None
    axes = ("layers", "rows", "columns") if depth else ("rows", "columns")
    rates = (decay,) * len(axes) if isinstance(decay, Real) else decay
    if not isinstance(rates, Sequence) or isinstance(rates, str) or len(rates) != len(axes):
        raise ValueError(f"decay: got {decay!r}; allowed is one rate, or ({', '.join(axes)})")
    for rate in rates:
        if not is_real(rate) or not 0 <= rate < math.inf:
            raise ValueError(f"decay: got {decay!r}; rates must be finite numbers and at least 0")
    return tuple(float(rate) for rate in (rates if len(rates) == 3 else (0.0, *rates)))
