"""Dense-basis definition of every op in float64: the specification, never optimised.

``D_n`` is the orthonormal DCT-II matrix of order n, ``D_n[u, i] = s_u cos(pi (2i + 1) u / 2n)`` with
``s_0 = sqrt(1/n)`` and ``s_u = sqrt(2/n)`` otherwise. Every op multiplies the last axes by rows of it.
Imports torch only.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = [
    "basis",
    "dct",
    "dct2",
    "dct_crop",
    "dct_resize",
    "idct",
    "idct2",
    "idct_pad",
    "lowpass",
    "norm_scale",
    "spectral_loss",
]


def basis(n: int, k: int | None = None) -> Tensor:
    """First k rows of the orthonormal DCT-II matrix ``D_n``: float64, shape [k, n]."""
    k = n if k is None else k
    i = torch.arange(n, dtype=torch.int64)
    u = torch.arange(k, dtype=torch.int64)[:, None]
    # The angle is pi * q / 2n with an integer q, reduced exactly before it becomes a float.
    q = ((2 * i + 1) * u) % (4 * n)
    d = torch.cos(q.to(torch.float64) * (math.pi / (2 * n))) * math.sqrt(2 / n)
    d[0] = math.sqrt(1 / n)
    return d


def norm_scale(n: int, norm: str, k: int | None = None) -> Tensor:
    """Factor per frequency from orthonormal to `norm` coefficients (scipy.fft.dct, type 2): float64, shape [k]."""
    k = n if k is None else k
    if norm.startswith("adjoint:"):
        return 1 / norm_scale(n, norm.removeprefix("adjoint:"), k)
    first, other = {
        "ortho": (1.0, 1.0),
        "backward": (2 * math.sqrt(n), math.sqrt(2 * n)),
        "forward": (1 / math.sqrt(n), 1 / math.sqrt(2 * n)),
    }[norm]
    scale = torch.full((k,), other, dtype=torch.float64)
    scale[0] = first
    return scale


def dct(x: Tensor, k: int | None = None, dim: int = -1, *, norm: str = "ortho") -> Tensor:
    """``D_k x`` along `dim`."""
    n = x.shape[dim]
    k = n if k is None else k
    matrix = norm_scale(n, norm, k)[:, None] * basis(n, k)
    return (x.to(torch.float64).movedim(dim, -1) @ matrix.T).movedim(-1, dim)


def idct(x: Tensor, size: int | None = None, dim: int = -1, *, norm: str = "ortho") -> Tensor:
    """``D_k^T x`` along `dim`: the inverse of x zero-padded to `size`."""
    k = x.shape[dim]
    size = k if size is None else size
    matrix = basis(size, k) / norm_scale(size, norm, k)[:, None]
    return (x.to(torch.float64).movedim(dim, -1) @ matrix).movedim(-1, dim)


def dct2(x: Tensor, *, norm: str = "ortho") -> Tensor:
    """``D_m x D_n^T``."""
    return dct_crop(x, (x.shape[-2], x.shape[-1]), norm=norm)


def idct2(x: Tensor, *, norm: str = "ortho") -> Tensor:
    """``D_m^T x D_n``."""
    return idct_pad(x, (x.shape[-2], x.shape[-1]), norm=norm)


def dct_crop(x: Tensor, k: tuple[int, int], *, norm: str = "ortho") -> Tensor:
    """``dct2(x)[..., :k0, :k1]``."""
    return dct(dct(x, k[1], -1, norm=norm), k[0], -2, norm=norm)


def idct_pad(x: Tensor, size: tuple[int, int], *, norm: str = "ortho") -> Tensor:
    """``idct2`` of x zero-padded to `size`."""
    return idct(idct(x, size[0], -2, norm=norm), size[1], -1, norm=norm)


def dct_resize(x: Tensor, size: tuple[int, int], *, k: tuple[int, int] | None = None, norm: str = "ortho") -> Tensor:
    """``idct_pad(dct_crop(x, min(k, shape, size)), size)``."""
    kept = [min(s, n) for s, n in zip(size, x.shape[-2:], strict=True)]
    if k is not None:
        kept = [min(a, b) for a, b in zip(kept, k, strict=True)]
    return idct_pad(dct_crop(x, (kept[0], kept[1]), norm=norm), size, norm=norm)


def lowpass(x: Tensor, k: tuple[int, int]) -> Tensor:
    """``dct_resize(x, x.shape, k=k)``."""
    return dct_resize(x, (x.shape[-2], x.shape[-1]), k=k)


def spectral_loss(
    x: Tensor, k: tuple[int, int], *, standardize: bool = False, decay: tuple[float, float] | None = None
) -> Tensor:
    """``sum (1 - w) dct2(x)^2``, ``w = exp(-decay0 u / m - decay1 v / n)`` in the corner and 0 outside, over the batch.

    Standardised: of ``(x - mean) / (std + 1e-8)`` of every matrix.
    """
    x = x.to(torch.float64)
    m, n = x.shape[-2:]
    if standardize:
        d = x - x.mean((-2, -1), keepdim=True)
        std = (d.square().sum((-2, -1), keepdim=True) / max(1, m * n - 1)).sqrt()
        x = d / (std + 1e-8)
    rates = (0.0, 0.0) if decay is None else decay
    u, v = (torch.arange(size, dtype=torch.float64) / size for size in (m, n))
    w = torch.exp(-rates[0] * u[:, None] - rates[1] * v)
    w[k[0] :], w[:, k[1] :] = 0, 0
    return ((1 - w) * dct2(x).square()).sum()
