"""The alternatives that other libraries have, and all alternatives by name.

On the CPU: ducc0 in two dimensions and with the crop or padding between its axes, scipy.fft. On GPUs:
cupyx.scipy.fft, jax.scipy.fft under jit, VkFFT. torch_dct on both.
"""

from __future__ import annotations

import functools
import importlib
import math
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.utils.dlpack
from torch import Tensor

from . import peers
from .cases import Case
from .peers import TOLERANCE, Builder, Peer, composed, matmul, rfft2, torch_fft, torch_fft_cut, torch_padded

__all__ = ["BUILDERS", "release"]

# NOTE: before jax is imported: it would take three quarters of the memory.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

MANY = ("dct_crop", "dct_crop_many")
CUPY = "cupy-cuda13x"


def library(module: str, distribution: str) -> Any:
    """The module; ImportError with what installs it where it is missing."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(f"{error} (pip install {distribution})") from error


def only(case: Case, *dtypes: str) -> None:
    if case.dtype not in dtypes:
        raise NotImplementedError(f"not run in {case.dtype}")


def numpy_padded(y: Any, size: Sequence[int]) -> Any:
    return np.pad(y, [(0, 0)] * (y.ndim - 2) + [(0, size[i] - y.shape[i - 2]) for i in (0, 1)])


def scipy_fft(case: Case, xs: list[Tensor]) -> Peer:
    only(case, "float32", "float64")
    fft = library("scipy.fft", "scipy")
    arrays = [x.numpy() for x in xs]
    options = {"norm": "ortho", "axes": (-2, -1), "workers": torch.get_num_threads()}
    transform = composed(case, lambda x: fft.dctn(x, **options), lambda y: fft.idctn(y, **options), numpy_padded)
    return Peer(lambda i: transform(arrays[i]), True, TOLERANCE[case.dtype], torch.from_numpy)


def ducc0_fft(case: Case, xs: list[Tensor], *, by_axis: bool) -> Peer:
    only(case, "float32", "float64")
    fft = library("ducc0", "ducc0").fft
    arrays, threads = [x.numpy() for x in xs], torch.get_num_threads()

    kept: dict[tuple[Any, ...], Any] = {}

    def buffer(name: str, shape: Sequence[int], dtype: Any) -> Any:
        """Zeros once, the same array in every call: as front writes into `out`."""
        at = name, *shape
        if at not in kept:
            kept[at] = np.zeros(shape, dtype)
        return kept[at]

    def along(x: Any, kind: int, *axes: int) -> Any:
        out = buffer(f"{kind} {axes}", x.shape, x.dtype)
        return fft.dct(x, type=kind, axes=[x.ndim + axis for axis in axes], inorm=1, nthreads=threads, out=out)

    def cut(x: Any, k0: int, k1: int) -> Any:
        found = buffer("cut", (*x.shape[:-2], k0, k1), x.dtype)
        np.copyto(found, x[..., :k0, :k1])
        return found

    def larger(y: Any, size: Sequence[int]) -> Any:
        if y.shape[-2:] == tuple(size):
            return y
        found = buffer("padded", (*y.shape[:-2], *size), y.dtype)  # what is beyond y stays zero
        found[..., : y.shape[-2], : y.shape[-1]] = y
        return found

    def crop(x: Any) -> Any:
        k0, k1 = case.kept
        return along(cut(along(x, 2, -1), x.shape[-2], k1), 2, -2)[..., :k0, :]

    def padded(y: Any) -> Any:
        m, n = case.result
        return along(larger(along(larger(y, (m, y.shape[-1])), 3, -2), (m, n)), 3, -1)

    if not by_axis:
        transform = composed(case, lambda x: along(x, 2, -2, -1), lambda y: along(y, 3, -2, -1), larger)
    elif case.op == "idct_pad":
        transform = padded
    else:
        transform = crop if case.op in MANY else lambda x: padded(crop(x))
    return Peer(lambda i: transform(arrays[i]), not by_axis, TOLERANCE[case.dtype], torch.from_numpy)


def torch_dct(case: Case, xs: list[Tensor]) -> Peer:
    only(case, "float32", "float64")
    module = library("torch_dct", "torch-dct")
    transform = composed(
        case, lambda x: module.dct_2d(x, norm="ortho"), lambda y: module.idct_2d(y, norm="ortho"), torch_padded
    )
    return Peer(lambda i: transform(xs[i]), True, TOLERANCE[case.dtype])


def from_cupy(result: Any) -> Tensor:
    torch.cuda.synchronize()
    return torch.utils.dlpack.from_dlpack(result)


def cupyx_fft(case: Case, xs: list[Tensor]) -> Peer:
    """On the default stream, as torch: CUDA events of torch time it."""
    only(case, "float32")
    cupy, fft = library("cupy", CUPY), library("cupyx.scipy.fft", CUPY)

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
    only(case, "float32")
    jax = library("jax", "jax[cuda13]")
    jnp, fft = library("jax.numpy", "jax"), library("jax.scipy.fft", "jax")

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
        lambda i: transform(arrays[i]),
        True,
        TOLERANCE["float32"],
        lambda y: torch.utils.dlpack.from_dlpack(finished(y)),
        finished,
    )


def vkfft(case: Case, xs: list[Tensor]) -> Peer:
    """Unscaled (twice the sums), as VkFFT computes it: its scale is applied after the clock has stopped."""
    only(case, "float32")
    if case.op not in MANY:
        raise NotImplementedError(f"not written for {case.op}")
    cupy, dctn = library("cupy", CUPY), library("pyvkfft.fft", "pyvkfft").dctn

    torch.cuda.synchronize()
    arrays = [cupy.from_dlpack(x) for x in xs]
    result = cupy.empty_like(arrays[0])
    (m, n), (k0, k1) = case.size, case.kept

    def scaled(y: Any) -> Tensor:
        ortho = [torch.full((size, 1), math.sqrt(0.5 / size), device=xs[0].device) for size in (m, n)]
        ortho[0][0], ortho[1][0] = math.sqrt(0.25 / m), math.sqrt(0.25 / n)
        return (from_cupy(y) * ortho[0] * ortho[1].mT)[..., :k0, :k1]

    return Peer(lambda i: dctn(arrays[i], result, ndim=2, norm=1), True, TOLERANCE["float32"], scaled)


_TORCH: dict[str, Builder] = {"torch_dct": torch_dct, "torch.fft cut": torch_fft_cut, "matmul": matmul}
BUILDERS: dict[str, dict[str, Builder]] = {
    "cpu": {
        "ducc0 by axis": functools.partial(ducc0_fft, by_axis=True),
        "ducc0 2-D": functools.partial(ducc0_fft, by_axis=False),
        "scipy": scipy_fft,
        **_TORCH,
    },
    "cuda": {
        "torch.fft": torch_fft,
        **_TORCH,
        "rfft2": rfft2,
        "rfft2 compiled": functools.partial(rfft2, compiled=True),
        "cupyx": cupyx_fft,
        "jax": jax_fft,
        "vkfft": vkfft,
        "matmul TF32": functools.partial(matmul, high=True),
        "matmul bfloat16": functools.partial(matmul, dtype=torch.bfloat16),
    },
}
"""Of each type of device, the builder of every alternative. It raises ImportError where a library is missing,
NotImplementedError where the case is not for it."""


def release() -> None:
    """Gives back what tables and the peers' pools hold."""
    peers.release()
    if not torch.cuda.is_available():
        return
    torch.backends.cuda.cufft_plan_cache.clear()
    torch.cuda.empty_cache()
    try:
        import cupy
    except ImportError:  # then it holds nothing
        return
    cupy.get_default_memory_pool().free_all_blocks()
