"""The alternatives that the ops are measured against on a GPU. Those of torch run on the CPU too, for the tests.

Full transforms, cut or padded as the op asks: torch.fft by axis (the algorithm of torch_dct), one two-dimensional real
FFT between a reordering and a combination (Jiang, Gu, Pan, arXiv:2110.01172), the same with both of these fused by
torch.compile, cupyx.scipy.fft, jax.scipy.fft under jit, VkFFT. Only what is kept: torch.fft with the crop or padding
between the axes, matmul with a cached basis in float32, TF32 and bfloat16.
"""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

# NOTE: before jax is imported: it would take three quarters of the memory.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import torch
from torch import Tensor
from torch.nn.functional import pad

from front_kernels.reference import basis
from gpu_ledger import Case

TOLERANCE = {"float32": 5e-6, "bfloat16": 2.0**-8}  # relative L2 error of a peer that is timed
Transform = Callable[[Any], Any]


@dataclass(frozen=True)
class Peer:
    """`run(i)` computes the case from input i; `tensor` makes a tensor of what it returns, which may be off by
    `tolerance` (None: only reported). `wait` is given for what runs on streams of its own: it blocks until a result
    is there, and is timed by the host's clock."""

    run: Callable[[int], Any]
    full: bool
    tolerance: float | None
    tensor: Callable[[Any], Tensor] = lambda result: result
    wait: Callable[[Any], object] | None = None


@functools.lru_cache(maxsize=16)
def twiddles(n: int, device: torch.device, *, inverse: bool = False) -> Tensor:
    """exp(-i pi u / 2n), u = 0 .. n // 2, times the orthonormal scale; inverse: its reciprocal."""
    u = torch.arange(n // 2 + 1, dtype=torch.float64)
    scale = torch.full_like(u, math.sqrt(2 / n))
    scale[0] = math.sqrt(1 / n)
    w = torch.polar(1 / scale if inverse else scale, u * (math.pi / (2 * n)) * (1 if inverse else -1))
    return w.to(torch.complex64).to(device)


def dct(x: Tensor) -> Tensor:
    """DCT-II of the last axis: real FFT of the even elements up and the odd ones down (Makhoul, 1980)."""
    n = x.shape[-1]
    spectrum = torch.fft.rfft(torch.cat([x[..., ::2], x[..., 1::2].flip(-1)], -1)) * twiddles(n, x.device)
    return torch.cat([spectrum.real, -spectrum.imag[..., 1 : (n + 1) // 2].flip(-1)], -1)


def idct(y: Tensor) -> Tensor:
    """Inverse of `dct`."""
    n = y.shape[-1]
    half = n // 2 + 1
    imag = pad(y[..., n - half + 1 :].flip(-1), (1, 0))  # coefficient n - u, and none for u = 0
    v = torch.fft.irfft(torch.complex(y[..., :half], -imag) * twiddles(n, y.device, inverse=True), n)
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
    before, after, before_inverse = compiled_steps() if compiled else (gather, combine, spread)

    def forward(x: Tensor) -> Tensor:
        (m, n), on = x.shape[-2:], x.device
        v = torch.view_as_real(torch.fft.rfft2(before(x, order(m, on), order(n, on))))
        return after(v, mirrored(m, on), angles(m, m, on), angles(n, n // 2 + 1, on), n)

    def inverse(y: Tensor) -> Tensor:
        (m, n), on = y.shape[-2:], y.device
        tables = angles(m, m, on, inverse=True), angles(n, n // 2 + 1, on, inverse=True)
        v = torch.fft.irfft2(torch.complex(*before_inverse(y, *tables)), (m, n))
        return before(v, order(m, on, inverse=True), order(n, on, inverse=True))

    return forward, inverse


@functools.lru_cache(maxsize=8)
def mirrored(m: int, device: torch.device) -> Tensor:
    return (-torch.arange(m) % m).to(device)


@functools.lru_cache(maxsize=1)
def compiled_steps() -> tuple[Transform, ...]:
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

    def run(i: int) -> Tensor:
        return transform(xs[i].float()).to(dtype)  # torch's FFTs have no bfloat16; float32 stays as it is

    return Peer(run, full, TOLERANCE[case.dtype])


def torch_fft(case: Case, xs: list[Tensor]) -> Peer:
    whole = composed(case, lambda x: dct(dct(x).mT).mT, lambda y: idct(idct(y.mT).mT), torch_padded)
    return of_torch(case, xs, whole, full=True)


def torch_fft_cut(case: Case, xs: list[Tensor]) -> Peer:
    return of_torch(case, xs, axis_by_axis(case), full=False)


def rfft2(case: Case, xs: list[Tensor], *, compiled: bool = False) -> Peer:
    return of_torch(case, xs, composed(case, *two_dimensional(compiled), torch_padded), full=True)


def matmul(case: Case, xs: list[Tensor], *, dtype: torch.dtype = torch.float32, high: bool = False) -> Peer:
    transform = products(case, dtype, xs[0].device)

    def run(i: int) -> Tensor:
        if not high:
            return transform(xs[i])
        with tf32():
            return transform(xs[i])

    return Peer(run, False, TOLERANCE["float32"] if dtype == torch.float32 and not high else None)


def only_float32(case: Case) -> None:
    if case.dtype != "float32":
        raise NotImplementedError(f"not run in {case.dtype}")


def from_cupy(result: Any) -> Tensor:
    torch.cuda.synchronize()
    return torch.from_dlpack(result)


def cupyx_fft(case: Case, xs: list[Tensor]) -> Peer:
    """On the default stream, as torch: CUDA events of torch time it."""
    only_float32(case)
    import cupy
    import cupyx.scipy.fft as fft

    torch.cuda.synchronize()
    arrays = [cupy.from_dlpack(x) for x in xs]
    options = {"norm": "ortho", "axes": (-2, -1)}

    def padded(y: Any, size: Sequence[int]) -> Any:
        whole = cupy.zeros((*y.shape[:-2], *size), y.dtype)
        whole[..., : y.shape[-2], : y.shape[-1]] = y
        return whole

    transform = composed(case, lambda x: fft.dctn(x, **options), lambda y: fft.idctn(y, **options), padded)
    return Peer(lambda i: transform(arrays[i]), True, TOLERANCE["float32"], from_cupy)


def jax_fft(case: Case, xs: list[Tensor]) -> Peer:
    only_float32(case)
    import jax
    import jax.numpy as jnp
    import jax.scipy.fft as fft

    if xs[0].is_cuda and jax.default_backend() != "gpu":
        raise RuntimeError(f"jax runs on {jax.default_backend()} only")
    if xs[0].is_cuda:
        torch.cuda.synchronize()
    arrays = [jax.dlpack.from_dlpack(x) for x in xs]
    options = {"norm": "ortho", "axes": (-2, -1)}

    def padded(y: Any, size: Sequence[int]) -> Any:
        return jnp.pad(y, [(0, 0)] * (y.ndim - 2) + [(0, size[i] - y.shape[i - 2]) for i in (0, 1)])

    transform = jax.jit(composed(case, lambda x: fft.dctn(x, **options), lambda y: fft.idctn(y, **options), padded))
    finished = jax.block_until_ready
    return Peer(
        lambda i: transform(arrays[i]), True, TOLERANCE["float32"], lambda y: torch.from_dlpack(finished(y)), finished
    )


def vkfft(case: Case, xs: list[Tensor]) -> Peer:
    """Unscaled (twice the sums), as VkFFT computes it: its scale is applied after the clock has stopped."""
    only_float32(case)
    if case.op not in ("dct_crop", "dct_crop_many"):
        raise NotImplementedError(f"not written for {case.op}")
    import cupy
    from pyvkfft.fft import dctn

    torch.cuda.synchronize()
    arrays = [cupy.from_dlpack(x) for x in xs]
    result = cupy.empty_like(arrays[0])
    (m, n), (k0, k1) = case.size, case.kept

    def scaled(y: Any) -> Tensor:
        ortho = [torch.full((size, 1), math.sqrt(0.5 / size), device=xs[0].device) for size in (m, n)]
        ortho[0][0], ortho[1][0] = math.sqrt(0.25 / m), math.sqrt(0.25 / n)
        return (from_cupy(y) * ortho[0] * ortho[1].mT)[..., :k0, :k1]

    return Peer(lambda i: dctn(arrays[i], result, ndim=2, norm=1), True, TOLERANCE["float32"], scaled)


BUILDERS: dict[str, Callable[[Case, list[Tensor]], Peer]] = {
    "torch.fft": torch_fft,
    "torch.fft cut": torch_fft_cut,
    "rfft2": rfft2,
    "rfft2 compiled": functools.partial(rfft2, compiled=True),
    "cupyx": cupyx_fft,
    "jax": jax_fft,
    "vkfft": vkfft,
    "matmul float32": matmul,
    "matmul TF32": functools.partial(matmul, high=True),
    "matmul bfloat16": functools.partial(matmul, dtype=torch.bfloat16),
}


def release() -> None:
    """Gives back what the tables and the peers' pools hold."""
    for cache in (twiddles, order, angles, mirrored, cached_basis):
        cache.cache_clear()
    torch.backends.cuda.cufft_plan_cache.clear()
    torch.cuda.empty_cache()
    try:
        import cupy
    except ImportError:
        return
    cupy.get_default_memory_pool().free_all_blocks()
