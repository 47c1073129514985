"""The spectral loss on CUDA devices: all forms by way of the two halves, in which nothing waits for the device.

The halves are the Triton engine's fused kernels where the cost model would take that engine for the crop. Elsewhere,
for many coefficients, they are ops of the CUDA engine, and one matrix at a time is formed in the compute dtype.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from . import _contract, _spectral, engines
from ._spectral import Decay, compute_dtype
from ._spectral_parts import list_loss

__all__ = ["crop", "register", "residual_"]


@functools.cache
def _triton() -> Any:
    from .triton import spectral

    return spectral


def _fused(xs: Sequence[Tensor], k: Sequence[int], only_rows: bool) -> bool:
    """Whether the Triton engine would crop these."""
    x = xs[0]
    ends: tuple[Sequence[int | None], Sequence[int | None]] = x.shape, (k[0], k[1])
    by_columns = x.stride(0) == 1 and x.stride(1) != 1
    if only_rows:
        ends, by_columns = ((x.shape[1], x.shape[0]), (k[1], None)), not by_columns
    dtypes = x.dtype, compute_dtype(x.dtype)
    return engines.engine_for("spectral_loss", x.device, len(xs), ends, dtypes, by_columns) == "triton"


def crop(xs: Sequence[Tensor], k: Sequence[int], only_rows: bool = False) -> tuple[Tensor, Tensor]:
    """The first half: see csrc/ops.cpp."""
    rows = xs[0].shape[0] if only_rows else k[0]
    _spectral.check("_spectral_crop", xs, [rows, k[1]] * len(xs), None)
    _contract.check_alike("_spectral_crop", xs)
    if _fused(xs, k, only_rows):
        with torch.cuda.device_of(xs[0]):
            found: tuple[Tensor, Tensor] = _triton().crop(
                xs, k, only_rows, engines.target(engines.gpu_of(xs[0].device))
            )
        return found
    return crop_by_ops(xs, k, only_rows)


def crop_by_ops(xs: Sequence[Tensor], k: Sequence[int], only_rows: bool) -> tuple[Tensor, Tensor]:
    dtype = compute_dtype(xs[0].dtype)
    if only_rows:
        blocks = [torch.ops.front.dct.default(x, k[1], out_dtype=dtype) for x in xs]
    else:
        blocks = torch.ops.front.dct_crop_many.default(list(xs), list(k), out_dtype=dtype)
    return torch.stack(blocks), torch.stack([_spread(x, dtype) for x in xs])


def _spread(x: Tensor, dtype: torch.dtype) -> Tensor:
    """(mean, energy, whether constant): [3], float64."""
    count = x.numel()
    std, mean = torch.std_mean(x.to(dtype), (0, 1), correction=min(1, count - 1))
    constant = std <= 8 * torch.finfo(dtype).eps * mean.abs()
    energy = std.to(torch.float64).square() * max(1, count - 1)
    return torch.stack([mean.to(torch.float64), energy.masked_fill(constant, 0), constant.to(torch.float64)])


def residual_(
    grads: Sequence[Tensor], xs: Sequence[Tensor], coefficients: Tensor, terms: Tensor, only_rows: bool = False
) -> Tensor:
    """The second half: see csrc/ops.cpp."""
    if _fused(xs, coefficients.shape[1:], only_rows):
        with torch.cuda.device_of(xs[0]):
            found: Tensor = _triton().residual_(
                grads, xs, coefficients, terms, only_rows, engines.target(engines.gpu_of(xs[0].device))
            )
        return found
    return residual_by_ops_(grads, xs, coefficients, terms, only_rows)


def residual_by_ops_(
    grads: Sequence[Tensor], xs: Sequence[Tensor], coefficients: Tensor, terms: Tensor, only_rows: bool
) -> Tensor:
    dtype = coefficients.dtype
    squares = []
    for i, x in enumerate(xs):
        m, n = x.shape
        if only_rows:
            r = torch.ops.front.idct.default(coefficients[i], n)
        else:
            r = torch.ops.front.idct_pad.default(coefficients[i], [m, n])
        torch.sub(x, r, out=r)
        squares.append(torch.linalg.vector_norm(r, dtype=torch.float64).square())
        if grads:
            factor, slope, mean = terms[i].to(dtype).unbind()
            r.mul_(factor).add_(slope * (x.to(dtype) - mean))
            grads[i].add_(r)
    return torch.stack(squares)


def _loss(x: Tensor, k: Sequence[int], *, standardize: bool = False) -> Tensor:
    _contract.lowpass(x, k, op="spectral_loss")
    return list_loss(None, [x], k, 0.0, standardize, None)


def _loss_many(xs: Sequence[Tensor], ks: Sequence[int], *, standardize: bool = False, decay: Decay = None) -> Tensor:
    _spectral.check("spectral_loss_many", xs, ks, decay)
    return list_loss(None, xs, ks, 0.0, standardize, decay)


def _grad_many_(
    grads: Sequence[Tensor], xs: Sequence[Tensor], ks: Sequence[int], scale: float, **options: Any
) -> Tensor:
    _spectral.check("spectral_grad_many_", xs, ks, options.get("decay"), grads)
    return list_loss(grads, xs, ks, scale, options.get("standardize", False), options.get("decay"))


def _grad_many(scale: Tensor, xs: Sequence[Tensor], ks: Sequence[int], **options: Any) -> list[Tensor]:
    grads = [torch.zeros_like(x, memory_format=torch.contiguous_format) for x in xs]
    _spectral.check("_spectral_grad_many", xs, ks, options.get("decay"), grads)
    list_loss(grads, xs, ks, scale, options.get("standardize", False), options.get("decay"))
    return grads


def register() -> torch.library.Library:
    """Registers the CUDA key; the returned Library keeps the kernels alive."""
    library = torch.library.Library("front", "IMPL")
    for name, kernel in (
        ("spectral_loss", _loss),
        ("spectral_loss_many", _loss_many),
        ("spectral_grad_many_", _grad_many_),
        ("_spectral_grad_many", _grad_many),
        ("_spectral_crop", crop),
        ("_spectral_residual_", residual_),
    ):
        library.impl(name, kernel, "CUDA")
    return library
