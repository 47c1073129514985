"""What a GPU engine would take for a transform: the cost model by which engines.py chooses. Data and arithmetic only.

Times are those of a model, not of a device: the larger of what the memory and what the arithmetic needs, for each
kernel, and a launch. Fitted to times on an H200 (docs/GPU.md has them): the FFT-shaped kernels' rate, and how far
products stay behind half of the tensor cores' peak. Other devices' rates go with their peaks. Only ratios decide.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from . import _C
from .triton import moments

__all__ = [
    "DEVICES",
    "Device",
    "Problem",
    "cuda_us",
    "device_named",
    "folds",
    "problems_of",
    "too_large",
    "too_long",
    "triton_us",
]


@dataclass(frozen=True)
class Device:
    """Rates of a GPU, per microsecond."""

    bytes: float  # of memory, copied
    half: float  # operations of 16-bit products with float32 sums
    single: float  # of TF32 products
    double: float
    points: float  # the FFT-shaped kernels': float32 numbers of the longer side, plus twice those of the shorter
    launch_us: float = 3.0


FORWARD, INVERSE, RESIZE = 0, 1, 2  # csrc/params.h's Direction
DEVICES = {
    "NVIDIA H200": Device(bytes=4.24e6, half=395e6, single=197e6, double=30e6, points=0.6e6),
    "NVIDIA H100": Device(bytes=3.0e6, half=395e6, single=197e6, double=30e6, points=0.55e6),
    "NVIDIA A100": Device(bytes=1.7e6, half=150e6, single=75e6, double=9e6, points=0.3e6),
}
UNKNOWN = DEVICES["NVIDIA H200"]
FUSED_MOST = 128
"""Most coefficients per axis that one Triton kernel takes through both axes: what fits the registers."""
_MOST_BASIS = 1 << 30
"""Bytes of one basis, and of the partial sums, beyond which the GEMM-shaped kernels are used only where they must."""
_TWO_PASSES = 2.2
"""Times that products of one axis take of what they would at a device's rates."""
_CLEARLY_FEWER = 0.8
"""Of the products: times were measured where the contiguous axis goes last."""
_CONVOLUTION, _THROUGH_MEMORY = 37, 12  # passes over an axis' points that steps through memory are worth
_PROGRAMS, _LANES = 132, 64  # of the kernel for both axes: as many at least, each with so many lanes


def device_named(name: str) -> Device:
    """The rates of a device; of an unknown one, those of an H200: engines compare alike on GPUs of any size."""
    return next((device for prefix, device in DEVICES.items() if name.startswith(prefix)), UNKNOWN)


class Pass(NamedTuple):
    """One axis: its length, the coefficients kept or given, the lanes; `strided` where the lanes are contiguous."""

    n: int
    k: int
    lanes: int
    strided: bool


class Problem(NamedTuple):
    """As many matrices of `shape`, of which the corner `k` is kept (or, inverse, given), between tensors of two dtypes.

    A transform of one axis is that of matrices whose other side is not transformed: its k is None. `by_columns`: the
    first axis is the contiguous one.
    """

    matrices: int
    shape: tuple[int, int]
    k: tuple[int, int | None]
    inverse: bool
    x: torch.dtype
    out: torch.dtype
    by_columns: bool = False

    @property
    def compute(self) -> torch.dtype:
        return torch.float64 if torch.float64 in (self.x, self.out) else torch.float32

    @property
    def contiguous_first(self) -> list[Pass]:
        """Passes forward, as the FFT-shaped kernels take them; the inverse takes them backwards, and as long."""
        (n0, n1), (k0, k1) = self.shape, self.k
        if k1 is None:
            return [Pass(n0, k0, n1, False)]
        if self.by_columns:
            return [Pass(n0, k0, n1, False), Pass(n1, k1, k0, False)]
        return [Pass(n1, k1, n0, False), Pass(n0, k0, k1, False)]

    def passes(self, precision: str = "highest") -> list[Pass]:
        """As the GEMM-shaped kernels take them."""
        if self.k[1] is None:
            return [Pass(self.shape[0], self.k[0], self.shape[1], not self.by_columns)]
        rows = self.rows_first(precision)
        # The inverse is the transpose: what comes first there is last here.
        return self._order(not rows)[::-1] if self.inverse else self._order(rows)

    def rows_first(self, precision: str, by_moments: bool = True) -> bool:
        """Whether products take the second axis before the first one: where that needs fewer.

        Forward the axis that is not contiguous goes first, as it can be folded or taken by its moments, unless the
        other order needs clearly fewer. `by_moments`: whether sums may be of them.
        """
        if self.inverse:  # the transpose of the forward one in the other order
            yes, no = (sum(n * k * lanes for n, k, lanes, _ in self._order(rows)) for rows in (False, True))
            return yes <= no
        strided, contiguous = (
            self._products(self._order(rows), precision, by_moments) for rows in (self.by_columns, not self.by_columns)
        )
        return self.by_columns != (contiguous < _CLEARLY_FEWER * strided)

    def _order(self, rows_first: bool) -> list[Pass]:
        """Forward; the intermediate is such that its second axis is strided in either order."""
        (n0, n1), (k0, k1) = self.shape, self.k
        assert k1 is not None
        if rows_first:
            return [Pass(n1, k1, n0, self.by_columns), Pass(n0, k0, k1, True)]
        return [Pass(n0, k0, n1, not self.by_columns), Pass(n1, k1, k0, True)]

    def _products(self, passes: list[Pass], precision: str, by_moments: bool) -> float:
        """Of bfloat16 numbers, a TF32 product being two."""
        total = 0.0
        asked = "half" if self.x.itemsize == 2 else "single"
        for (n, k, lanes, strided), dtype in zip(passes, (self.x, self.compute), strict=True):
            dot = self.compute if self.compute == torch.float64 else dtype
            each = 1.0 if dot.itemsize == 2 else 2.0
            if precision != "fast":
                each *= 2 if dot.itemsize == 2 else 3
            if strided and folds(dot, precision):
                each /= 2
            if by_moments and strided and dot != torch.float64 and precision != "fast" and n >= moments.LONG:
                terms = moments.chosen(n, k, moments.SHORTEST, asked)
                each = each if terms is None else min(each, moments.products(terms, moments.SHORTEST))
            total += each * n * k * lanes
        return total


def folds(dot: torch.dtype, precision: str) -> bool:
    """Whether sums along a strided axis are folded: not where that needs more bits than the inputs have."""
    # A sum of two float16 numbers may be too large for float16.
    return dot == torch.float32 or (dot == torch.bfloat16 and precision == "fast")


def _pair(shape: Sequence[Any]) -> Any:
    return shape[-2], shape[-1]


def problems_of(
    direction: int,
    count: int,
    x: Sequence[int | None],
    out: Sequence[int | None],
    k: Sequence[int],
    dtypes: Sequence[torch.dtype],
    by_columns: bool = False,
) -> list[Problem]:
    """What the model is asked about matrices of shape x that become matrices of shape out.

    Of one axis: its size, and the lanes; the side with fewer coefficients has None for them. `by_columns`: the first
    axis of x is the contiguous one.
    """
    first, last = dtypes
    if direction == FORWARD:
        return [Problem(count, _pair(x), _pair(out), False, first, last, by_columns)]
    if direction == INVERSE:
        return [Problem(count, _pair(out), _pair(x), True, first, last)]
    middle = torch.float64 if torch.float64 in dtypes else torch.float32
    return [
        Problem(count, _pair(x), _pair(k), False, first, middle, by_columns),
        Problem(count, _pair(out), _pair(k), True, middle, last),
    ]


# csrc/cuda's Hardware of an H200: multiprocessors, shared memory of a block and of a multiprocessor. The others take
# the same lengths but for the longest few.
_HARDWARE = (132, 227 << 10, 228 << 10)


@functools.lru_cache(maxsize=4096)
def _steps(n: int, real_bytes: int) -> int:
    """Passes over an axis of n points that its way through memory is worth; 0: it is transformed in shared memory.

    Raises:
        ValueError: the CUDA engine does not transform such an axis.
    """
    if _C.cuda_axis_plan(n, n, real_bytes, 1, _HARDWARE, 0)["radices"]:
        return 0
    return _CONVOLUTION if _C.cuda_large_plan(n, real_bytes, _HARDWARE)["convolve"] else _THROUGH_MEMORY


def too_long(problem: Problem) -> str | None:
    """Why the FFT-shaped kernels cannot, if an axis is too long for them."""
    for n, _, _, _ in problem.contiguous_first:
        try:
            _steps(n, problem.compute.itemsize)
        except ValueError as error:
            return str(error).removeprefix("front: ").partition(". Move x")[0]
    return None


def cuda_us(problem: Problem, device: Device) -> float:
    """Of the FFT-shaped kernels: the longer side of each pass, plus twice the shorter, at one rate.

    Raises:
        ValueError: an axis is `too_long`.
    """
    total = 0.0
    wide = 2 if problem.compute == torch.float64 else 1
    for n, k, lanes, _ in problem.contiguous_first:
        # A long axis goes through memory, and one without radices is a convolution of twice its length or more: four or
        # five steps each, in which it does not matter how much is kept. The inverse takes as long.
        steps = _steps(n, problem.compute.itemsize)
        points = steps * n or n + 2 * k
        total += wide * problem.matrices * lanes * points / device.points + device.launch_us
    return total


def _product_us(operations: float, dtype: torch.dtype, precision: str, device: Device) -> float:
    if dtype == torch.float64:
        return operations / device.double
    if dtype == torch.float32:
        return operations * (1 if precision == "fast" else 3) / device.single
    return operations * (1 if precision == "fast" else 2) / device.half


def _padded(size: int) -> int:
    """As the Triton engine pads bases (triton/basis.py)."""
    return -(-size // 128) * 128 if size > 128 else max(16, 1 << (size - 1).bit_length())


def _basis_bytes(n: int, k: int, dot: torch.dtype, precision: str) -> int:
    terms = 2 if dot.itemsize == 2 and precision != "fast" else 1
    return _padded(n) * _padded(k) * dot.itemsize * terms


def _is_fused(problem: Problem) -> bool:
    k0, k1 = problem.k
    return k1 is not None and problem.compute == torch.float32 and max(k0, k1) <= FUSED_MOST


def _partial_bytes(problem: Problem) -> int:
    """Of the sums that the programs of the kernel for both axes leave behind."""
    if not _is_fused(problem) or problem.inverse:
        return 0
    first, second = problem.passes()
    programs = max(_PROGRAMS, -(-min(first.lanes, second.n) // _LANES) * problem.matrices)
    return programs * _padded(first.k) * _padded(second.k) * 4


def too_large(problem: Problem, precision: str) -> str | None:
    """Why the GEMM-shaped kernels had better not, if they would take too much memory."""
    for n, k, _, _ in problem.passes(precision):
        if (size := _basis_bytes(n, k, problem.x, precision)) > _MOST_BASIS:
            return (
                f"its basis for length n = {n} with k = {k} kept would take {size / 2**30:.1f} GiB (more "
                f"than {_MOST_BASIS / 2**30:g})"
            )
    if (size := _partial_bytes(problem)) > _MOST_BASIS:
        return (
            f"its partial sums for {problem.matrices} matrices with k = {problem.k} kept would take {size / 2**30:.1f} "
            f"GiB (more than {_MOST_BASIS / 2**30:g})"
        )
    return None


def triton_us(problem: Problem, precision: str, device: Device) -> float:
    """Of the GEMM-shaped kernels: two passes, or one for both axes that moves the larger side of the matrix once."""
    passes = problem.passes(precision)
    fused = _is_fused(problem)
    total = largest = 0.0
    for i, (n, k, lanes, strided) in enumerate(passes):
        x = problem.x if i == 0 else problem.compute
        out = problem.out if i == len(passes) - 1 else problem.compute
        dot = problem.compute if problem.compute == torch.float64 else x
        folded = not problem.inverse and (strided or fused) and folds(dot, precision)
        # Tiles are whole on the basis's side; what a tile of lanes lacks is not multiplied by much.
        rows, terms = (n, _padded(k)) if problem.inverse else (_padded(k), n)
        products = 2.0 * rows * terms * lanes * problem.matrices / (2 if folded else 1)
        arithmetic = _product_us(products, dot, precision, device)
        read, written = (k, n) if problem.inverse else (n, k)
        basis = _basis_bytes(n, k, dot, precision) / device.bytes  # built once, and read
        memory = basis + problem.matrices * lanes * (read * x.itemsize + written * out.itemsize) / device.bytes
        if fused:
            total += arithmetic
            largest = max(largest, memory)
        else:
            total += max(_TWO_PASSES * arithmetic, memory) + device.launch_us
    if not fused:
        return total
    if problem.x.itemsize > 2:  # its numbers are taken apart in registers, between loads and products
        total += largest
    largest += 2 * _partial_bytes(problem) / device.bytes  # written, and read to be summed
    return max(total, largest) + device.launch_us * (1 if problem.inverse else 2)
