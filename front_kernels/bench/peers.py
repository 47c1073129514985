"""The alternatives that need torch only, on any device.

Full transforms, cut or padded as the op asks: torch.fft by axis (the algorithm of torch_dct), one two-dimensional real
FFT between a reordering and a combination (Jiang, Gu, Pan, arXiv:2110.01172), the same with both of these fused by
torch.compile. Only what is kept: torch.fft with the crop or padding between the axes, matmul with a cached basis in the
case's dtype, TF32 and bfloat16.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from ..reference import basis
from .cases import Case

__all__ = [
    "TOLERANCE",
    "Builder",
    "Peer",
    "composed",
    "dct",
    "idct",
    "matmul",
    "release",
    "rfft2",
    "torch_fft",
    "torch_fft_cut",
    "torch_padded",
]

TOLERANCE = {
    "float16": 2.0**-11,
    "bfloat16": 2.0**-8,
    "float32": 5e-6,
    "float64": 1e-12,
}  # relative L2 error of a peer that is timed
BASIS = 1 << 28  # most elements of a basis: it is built in float64, and a process that the system ends says nothing
Transform = Callable[[Any], Any]
Step = Callable[..., Any]


@dataclass(frozen=True)
class Peer:
    """`run(i)` computes the case from input i; `tensor` makes a tensor of what it returns, which may be off by
    `tolerance` (None: only reported). `full`: it computes every coefficient. `wait` is given for what runs on streams
    of its own: it blocks until a result is there, and is timed by the host's clock."""

    run: Callable[[int], Any]
    full: bool
    tolerance: float | None
    tensor: Callable[[Any], Tensor] = lambda result: result
    wait: Callable[[Any], object] | None = None


Builder = Callable[[Case, list[Tensor]], Peer]


@functools.lru_cache(maxsize=16)
def twiddles(n: int, dtype: torch.dtype, device: torch.device, *, inverse: bool = False) -> Tensor:
    """exp(-i pi u / 2n), u = 0 .. n // 2, times the orthonormal scale; inverse: its reciprocal."""
    u = torch.arange(n // 2 + 1, dtype=torch.float64)
    scale = torch.full_like(u, math.sqrt(2 / n))
    scale[0] = math.sqrt(1 / n)
    w = torch.polar(1 / scale if inverse else scale, u * (math.pi / (2 * n)) * (1 if inverse else -1))
    return w.to(dtype.to_complex()).to(device)


def dct(x: Tensor) -> Tensor:
    """DCT-II of the last axis: real FFT of the even elements up and the odd ones down (Makhoul, 1980)."""
    n = x.shape[-1]
    spectrum = torch.fft.rfft(torch.cat([x[..., ::2], x[..., 1::2].flip(-1)], -1)) * twiddles(n, x.dtype, x.device)
    return torch.cat([spectrum.real, -spectrum.imag[..., 1 : (n + 1) // 2].flip(-1)], -1)


def idct(y: Tensor) -> Tensor:
    """Inverse of `dct`."""
    n = y.shape[-1]
    half = n // 2 + 1
    imag = pad(y[..., n - half + 1 :].flip(-1), (1, 0))  # coefficient n - u, and none for u = 0
    v = torch.fft.irfft(torch.complex(y[..., :half], -imag) * twiddles(n, y.dtype, y.device, inverse=True), n)
    x = torch.empty_like(v)
    x[..., ::2] = v[..., : (n + 1) // 2]
    x[..., 1::2] = v[..., (n + 1) // 2 :].flip(-1)
    return x


def torch_padded(y: Tensor, size: Sequence[int]) -> Tensor:
    return pad(y, (0, size[1] - y.shape[-1], 0, size[0] - y.shape[-2]))


def axis_by_axis(case: Case) -> Transform:
    """Only the kept coefficients of the first axis are transformed along the second."""
    (k0, k1), (m, n) = case.kept, case.result

    def crop(x: Tensor) -> Tensor:
        return dct(dct(x)[..., :k1].mT)[..., :k0].mT

    def padded(y: Tensor) -> Tensor:
        return idct(pad(idct(pad(y.mT, (0, m - y.shape[-2]))).mT, (0, n - y.shape[-1])))

    return {"idct_pad": padded, "lowpass": lambda x: padded(crop(x)), "dct_resize": lambda x: padded(crop(x))}.get(
        case.op, crop
    )


@functools.lru_cache(maxsize=8)
def order(n: int, device: torch.device, *, inverse: bool = False) -> Tensor:
    """Where element j of the FFT's input comes from; inverse: where element i of the matrix went."""
    i = torch.cat([torch.arange(0, n, 2), torch.arange(1, n, 2).flip(0)])
    return (torch.argsort(i) if inverse else i).to(device)


@functools.lru_cache(maxsize=8)
def angles(n: int, count: int, device: torch.device, *, inverse: bool = False) -> tuple[Tensor, Tensor]:
    """Cosine and sine of pi u / 2n, u < count, times the orthonormal scale; inverse: over it."""
    a = torch.arange(count, dtype=torch.float64) * (math.pi / (2 * n))
    scale = torch.full_like(a, math.sqrt(2 / n))
    scale[0] = math.sqrt(1 / n)
    scale = 1 / scale if inverse else scale
    return (a.cos() * scale).float().to(device), (a.sin() * scale).float().to(device)


def gather(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    return x[..., rows[:, None], columns]


def combine(v: Tensor, mirror: Tensor, a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor], n: int) -> Tensor:
    """[..., m, h, 2] half spectrum into [..., m, n] coefficients. With a, b = exp(-i angle) of row and column and
    P = b V: coefficient u is Re(a (P + Q)) / 2 and n - u is -Im(a (P - Q)) / 2, where Q = conj(P of row -u0)."""
    (ac, as_), (bc, bs) = (a[0][:, None], a[1][:, None]), b
    re, im = v[..., 0], v[..., 1]
    pr, pi = bc * re + bs * im, bc * im - bs * re
    qr, qi = pr[..., mirror, :], -pi[..., mirror, :]
    low = ac * (pr + qr) + as_ * (pi + qi)
    high = as_ * (pr - qr) - ac * (pi - qi)
    return torch.cat([low, high[..., 1 : (n + 1) // 2].flip(-1)], -1) / 2


def spread(y: Tensor, a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """[..., m, n] coefficients C into the real and imaginary part of the half spectrum: conj(a b)
    (C[u0, u1] - C[m - u0, n - u1] - i (C[u0, n - u1] + C[m - u0, u1])), where C[m] and C[n] are 0."""
    half = y.shape[-1] // 2 + 1
    up = pad(y[..., 1:, :].flip(-2), (0, 0, 1, 0))
    left, across = (pad(z[..., 1:].flip(-1), (1, 0))[..., :half] for z in (y, up))
    re, im = y[..., :half] - across, -(left + up[..., :half])
    (ac, as_), (bc, bs) = (a[0][:, None], a[1][:, None]), b
    c, s = ac * bc - as_ * bs, as_ * bc + ac * bs
    return re * c - im * s, im * c + re * s


def two_dimensional(compiled: bool) -> tuple[Transform, Transform]:
    """Orthonormal DCT-II of the last two axes by one real FFT, and its inverse; what is before and after the FFT is in
    real arithmetic, since torch.compile fuses no other."""
    steps: tuple[Step, ...] = compiled_steps() if compiled else (gather, combine, spread)
    before, after, before_inverse = steps

    def forward(x: Tensor) -> Tensor:
        (m, n), on = x.shape[-2:], x.device
        v = torch.view_as_real(torch.fft.rfft2(before(x, order(m, on), order(n, on))))
        y: Tensor = after(v, mirrored(m, on), angles(m, m, on), angles(n, n // 2 + 1, on), n)
        return y

    def inverse(y: Tensor) -> Tensor:
        (m, n), on = y.shape[-2:], y.device
        tables = angles(m, m, on, inverse=True), angles(n, n // 2 + 1, on, inverse=True)
        v = torch.fft.irfft2(torch.complex(*before_inverse(y, *tables)), (m, n))
        x: Tensor = before(v, order(m, on, inverse=True), order(n, on, inverse=True))
        return x

    return forward, inverse


@functools.lru_cache(maxsize=8)
def mirrored(m: int, device: torch.device) -> Tensor:
    return (-torch.arange(m) % m).to(device)


@functools.lru_cache(maxsize=1)
def compiled_steps() -> tuple[Step, ...]:
    return tuple(torch.compile(step, dynamic=True, fullgraph=True) for step in (gather, combine, spread))


@functools.lru_cache(maxsize=4)
def cached_basis(n: int, k: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    with torch.device(device):
        return basis(n, k).to(dtype)


def product(left: Tensor, x: Tensor, right: Tensor) -> Tensor:
    """left @ x @ right in the order of fewer operations."""
    (k0, m), (n, k1) = left.shape, right.shape
    right_first = m * n * k1 + k0 * m * k1 <= k0 * m * n + k0 * n * k1
    return left @ (x @ right) if right_first else (left @ x) @ right


def products(case: Case, dtype: torch.dtype, device: torch.device) -> Transform:
    (m, n), k, result = case.size, case.kept, case.result
    rows, columns = cached_basis(m, k[0], dtype, device), cached_basis(n, k[1], dtype, device)
    if case.op in ("dct_crop", "dct_crop_many"):
        return lambda x: product(rows, x.to(dtype), columns.mT)
    if case.op == "idct_pad":
        return lambda y: product(rows.mT, y.to(dtype), columns)
    rows_back, columns_back = (cached_basis(result[i], k[i], dtype, device) for i in (0, 1))
    return lambda x: product(rows_back.mT, product(rows, x.to(dtype), columns.mT), columns_back)


@contextmanager
def tf32() -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def composed(
    case: Case, forward: Transform, inverse: Transform, padded: Callable[[Any, Sequence[int]], Any]
) -> Transform:
    """The case by a library's transform of the last two axes."""
    k0, k1 = case.kept

    def back(y: Any) -> Any:
        return inverse(padded(y, case.result) if tuple(y.shape[-2:]) != case.result else y)

    def crop(x: Any) -> Any:
        return forward(x)[..., :k0, :k1]

    return {"idct_pad": back, "lowpass": lambda x: back(crop(x)), "dct_resize": lambda x: back(crop(x))}.get(
        case.op, crop
    )


def of_torch(case: Case, xs: list[Tensor], transform: Transform, *, full: bool) -> Peer:
    dtype = getattr(torch, case.dtype)
    wide = torch.promote_types(dtype, torch.float32)

    def run(i: int) -> Tensor:
        result: Tensor = transform(xs[i].to(wide))  # torch's FFTs have no bfloat16; others stay as they are
        return result.to(dtype)

    return Peer(run, full, TOLERANCE[case.dtype])


def torch_fft(case: Case, xs: list[Tensor]) -> Peer:
    whole = composed(case, lambda x: dct(dct(x).mT).mT, lambda y: idct(idct(y.mT).mT), torch_padded)
    return of_torch(case, xs, whole, full=True)


def torch_fft_cut(case: Case, xs: list[Tensor]) -> Peer:
    return of_torch(case, xs, axis_by_axis(case), full=False)


def rfft2(case: Case, xs: list[Tensor], *, compiled: bool = False) -> Peer:
    if case.dtype == "float64":
        raise NotImplementedError("its factors are float32: not run in float64")
    return of_torch(case, xs, composed(case, *two_dimensional(compiled), torch_padded), full=True)


def matmul(case: Case, xs: list[Tensor], *, dtype: torch.dtype | None = None, high: bool = False) -> Peer:
    """Two products in the case's dtype, 16-bit ones in float32; in `dtype` or with TF32 (`high`) of any precision."""
    precise = dtype is None and not high
    if not precise and case.dtype == "float64":
        raise NotImplementedError("not run in float64")
    if (largest := max(n * k for n, k in zip(case.size, case.kept, strict=True))) > BASIS:
        raise NotImplementedError(f"not run with a basis of {largest} elements, more than {BASIS}")
    dtype = dtype or torch.promote_types(getattr(torch, case.dtype), torch.float32)
    transform = products(case, dtype, xs[0].device)

    def run(i: int) -> Any:
        if not high:
            return transform(xs[i])
        with tf32():
            return transform(xs[i])

    return Peer(run, False, TOLERANCE[str(dtype).removeprefix("torch.")] if precise else None)


def release() -> None:
    """Gives back what the tables hold."""
    for cache in (twiddles, order, angles, mirrored, cached_basis):
        cache.cache_clear()
