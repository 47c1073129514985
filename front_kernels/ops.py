"""The public functions. Each one calls the torch op of the same name in namespace ``front``.

Notation: ``D_n`` is the orthonormal DCT-II matrix of order n, ``D_n[u, i] = s_u cos(pi (2i + 1) u / 2n)`` with
``s_0 = sqrt(1/n)``, otherwise ``s_u = sqrt(2/n)``; ``D_k`` its first k rows. The last two axes of x are the matrix,
any axes before them a batch.

Common to all: x may be non-contiguous; its batch may be empty. float16, bfloat16 and float32 compute in float32,
float64 (as input or `out_dtype`) in float64. NaN and Inf propagate within their lane or matrix. Bad values raise
ValueError, a size that is neither a whole number nor a sequence TypeError; what is in the sequence, and other
arguments: torch's own error, a RuntimeError. Tensors have at most 64 dimensions.
Works under torch.compile and torch.export; under torch.func and vmap what gives a new tensor does.

The functional forms return a contiguous tensor of x's dtype unless `out_dtype` says otherwise, and are differentiable
to any order in reverse and forward mode. `out=` and in-place forms write where they are told to, in any strides that
do not overlap (of three axes that interleave it is not decided: refused), and raise RuntimeError under autograd.

Devices: the CPU, where axes have at most 2**30 elements (ValueError), and CUDA devices of compute capability 8.0 or
later (RuntimeError on others). There axes beyond 2**24 elements, odd lengths beyond 2**23, are for the Triton engine
alone, by products whose time grows with n k; and NotImplementedError says that no engine can run, and why:
`front_kernels.build_info`. Neither tensors nor work ever move to another device.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence

import torch
import torch.fx
from torch import Tensor

Pair = int | Sequence[int]


def _pair(value: object, name: str) -> Sequence[int]:
    kind = type(value)  # of what most calls have: an abstract class takes longer to ask for
    if kind is tuple or kind is list:
        return value  # type: ignore[return-value]
    if kind is int:
        return value, value  # type: ignore[return-value]
    if isinstance(value, Sequence):
        return value
    try:  # numpy's whole numbers
        n = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        if isinstance(value, torch.fx.Proxy):  # a number of a graph
            return value, value  # type: ignore[return-value]
        raise TypeError(f"front: {name} must be an int or a sequence of two, got {value!r}") from None
    return n, n


def _no_out_dtype(op: str, out_dtype: torch.dtype | None) -> None:
    if out_dtype is not None:
        raise ValueError(f"front::{op}: out_dtype must be None where out is given, got {out_dtype}")


def dct(
    x: Tensor, k: int | None = None, dim: int = -1, *, norm: str = "ortho", out_dtype: torch.dtype | None = None
) -> Tensor:
    r"""First k coefficients of the DCT-II along one axis: ``D_k x``.

    Equivalent to: ``scipy.fft.dct(x, type=2, axis=dim, norm=norm)`` cut to its first k entries along `dim`. Others are
    not computed, or of a vector that is transformed by itself not stored: on the CPU so are few vectors, and long ones,
    whose elements are adjacent, and the last bits of a result may depend on how many there are.

    Args:
        x: [..., n, ...], float16, bfloat16, float32 or float64.
        k: how many coefficients to keep, 1 <= k <= n; None keeps all.
        dim: the axis.
        norm: "ortho", "backward" or "forward", as in `scipy.fft.dct`. "backward" is ``2 sum_i x_i cos(...)``,
            "forward" is that divided by 2n.
        out_dtype: dtype of the result.

    Returns:
        [..., k, ...].

    Raises:
        ValueError: k, dim, norm, the dtype or out_dtype is not allowed, or x is empty along dim.

    Source: Makhoul, "A fast cosine transform in one and two dimensions", IEEE TASSP 28 (1980).
    """
    out: Tensor = torch.ops.front.dct.default(x, k, dim, norm=norm, out_dtype=out_dtype)
    return out


def idct(
    x: Tensor, size: int | None = None, dim: int = -1, *, norm: str = "ortho", out_dtype: torch.dtype | None = None
) -> Tensor:
    r"""Inverse of `dct` along one axis, of x zero-padded to `size`: ``D_k^T x`` with ``D_k`` of order `size`.

    Equivalent to: ``scipy.fft.idct(x, type=2, n=size, axis=dim, norm=norm)``. No tensor ever holds the zeros. On the
    CPU the last bits may depend on how many vectors there are, as in `dct`.

    Args:
        x: [..., k, ...] coefficients, float16, bfloat16, float32 or float64.
        size: length of the result along dim, k <= size <= 2**30; None means k.
        dim: the axis.
        norm: "ortho", "backward" or "forward", as in `scipy.fft.idct`.
        out_dtype: dtype of the result.

    Returns:
        [..., size, ...].

    Raises:
        ValueError: size, dim, norm, the dtype or out_dtype is not allowed, or x is empty along dim.
    """
    out: Tensor = torch.ops.front.idct.default(x, size, dim, norm=norm, out_dtype=out_dtype)
    return out


def dct2(x: Tensor, *, norm: str = "ortho", out_dtype: torch.dtype | None = None, out: Tensor | None = None) -> Tensor:
    r"""Two-dimensional DCT-II of the last two axes: ``D_m x D_n^T``.

    Equivalent to: ``scipy.fft.dctn(x, type=2, axes=(-2, -1), norm=norm)``.

    Args:
        x: [..., m, n], float16, bfloat16, float32 or float64.
        norm: "ortho", "backward" or "forward", as in `scipy.fft.dctn`.
        out_dtype: dtype of the result.
        out: tensor of the result's shape to write it to, in out's dtype; may overlap x. Not under autograd.

    Returns:
        [..., m, n].

    Raises:
        ValueError: norm, the shape, the dtype, out_dtype or out is not allowed.
        RuntimeError: out is given under autograd.
    """
    if out is not None:
        _no_out_dtype("dct2", out_dtype)
        torch.ops.front.dct2.out(x, norm=norm, out=out)
        return out
    result: Tensor = torch.ops.front.dct2.default(x, norm=norm, out_dtype=out_dtype)
    return result


def idct2(x: Tensor, *, norm: str = "ortho", out_dtype: torch.dtype | None = None, out: Tensor | None = None) -> Tensor:
    r"""Inverse of `dct2`: ``D_m^T x D_n``.

    Equivalent to: ``scipy.fft.idctn(x, type=2, axes=(-2, -1), norm=norm)``.

    Args:
        x: [..., m, n] coefficients, float16, bfloat16, float32 or float64.
        norm: "ortho", "backward" or "forward", as in `scipy.fft.idctn`.
        out_dtype: dtype of the result.
        out: tensor of the result's shape to write it to, in out's dtype; may overlap x. Not under autograd.

    Returns:
        [..., m, n].

    Raises:
        ValueError: norm, the shape, the dtype, out_dtype or out is not allowed.
        RuntimeError: out is given under autograd.
    """
    if out is not None:
        _no_out_dtype("idct2", out_dtype)
        torch.ops.front.idct2.out(x, norm=norm, out=out)
        return out
    result: Tensor = torch.ops.front.idct2.default(x, norm=norm, out_dtype=out_dtype)
    return result


def dct_crop(
    x: Tensor, k: Pair, *, norm: str = "ortho", out_dtype: torch.dtype | None = None, out: Tensor | None = None
) -> Tensor:
    r"""Low-frequency corner of the two-dimensional DCT-II: ``D_k0 x D_k1^T``.

    Equivalent to: ``dct2(x, norm=norm)[..., :k0, :k1]``, of which no more is computed than the corner and, for every
    row, its first k1 coefficients. With norm="ortho" it is the transpose of `idct_pad`.

    Args:
        x: [..., m, n], float16, bfloat16, float32 or float64.
        k: (k0, k1) or one int for both, 1 <= k0 <= m, 1 <= k1 <= n.
        norm: "ortho", "backward" or "forward", as in `scipy.fft.dctn`.
        out_dtype: dtype of the result.
        out: tensor of the result's shape to write it to, in out's dtype; may overlap x. Not under autograd.

    Returns:
        [..., k0, k1].

    Raises:
        ValueError: k, norm, the shape, the dtype, out_dtype or out is not allowed.
        RuntimeError: out is given under autograd.

    Source: the extraction step of FRONT, Shen et al., ICML 2026, arXiv:2603.07523.
    """
    if out is not None:
        _no_out_dtype("dct_crop", out_dtype)
        torch.ops.front.dct_crop.out(x, _pair(k, "k"), norm=norm, out=out)
        return out
    result: Tensor = torch.ops.front.dct_crop.default(x, _pair(k, "k"), norm=norm, out_dtype=out_dtype)
    return result


def idct_pad(
    x: Tensor, size: Pair, *, norm: str = "ortho", out_dtype: torch.dtype | None = None, out: Tensor | None = None
) -> Tensor:
    r"""Inverse two-dimensional DCT of x zero-padded to `size`: ``D_k0^T x D_k1`` with ``D`` of the orders `size`.

    Equivalent to: ``idct2`` of a zero matrix of shape `size` with x in its low-frequency corner; no tensor
    ever holds the zeros. ``dct_crop(idct_pad(x, size), x.shape[-2:]) == x``.

    Args:
        x: [..., k0, k1] coefficients, float16, bfloat16, float32 or float64.
        size: (m, n) or one int for both, k0 <= m, k1 <= n, both <= 2**30.
        norm: "ortho", "backward" or "forward", as in `scipy.fft.idctn` at `size`.
        out_dtype: dtype of the result.
        out: tensor of the result's shape to write it to, in out's dtype; may overlap x. Not under autograd.

    Returns:
        [..., m, n].

    Raises:
        ValueError: size, norm, the shape, the dtype, out_dtype or out is not allowed.
        RuntimeError: out is given under autograd.

    Source: the initialisation step of FRONT, Shen et al., ICML 2026, arXiv:2603.07523.
    """
    if out is not None:
        _no_out_dtype("idct_pad", out_dtype)
        torch.ops.front.idct_pad.out(x, _pair(size, "size"), norm=norm, out=out)
        return out
    result: Tensor = torch.ops.front.idct_pad.default(x, _pair(size, "size"), norm=norm, out_dtype=out_dtype)
    return result


def dct_resize(
    x: Tensor,
    size: Pair,
    *,
    k: Pair | None = None,
    norm: str = "ortho",
    out_dtype: torch.dtype | None = None,
    out: Tensor | None = None,
) -> Tensor:
    r"""Matrix of another size with the same low frequencies: ``idct_pad(dct_crop(x, min(k, shape, size)), size)``.

    The coefficients in between stay in the compute dtype. Under "ortho" a white matrix keeps its variance when it
    shrinks; "backward" multiplies each axis by sqrt(n / size), "forward" by sqrt(size / n).

    Args:
        x: [..., m, n], float16, bfloat16, float32 or float64.
        size: (m', n') of the result or one int for both, at least 1.
        k: at most how many coefficients of each axis to keep, at least 1; None keeps all that fit.
        norm: "ortho", "backward" or "forward": the norm of both directions.
        out_dtype: dtype of the result.
        out: tensor of the result's shape to write it to, in out's dtype; may overlap x. Not under autograd.

    Returns:
        [..., m', n'].

    Raises:
        ValueError: size, k, norm, the shape, the dtype, out_dtype or out is not allowed.
        RuntimeError: out is given under autograd.
    """
    kept = None if k is None else _pair(k, "k")
    if out is not None:
        _no_out_dtype("dct_resize", out_dtype)
        torch.ops.front.dct_resize.out(x, _pair(size, "size"), k=kept, norm=norm, out=out)
        return out
    result: Tensor = torch.ops.front.dct_resize.default(x, _pair(size, "size"), k=kept, norm=norm, out_dtype=out_dtype)
    return result


def lowpass(x: Tensor, k: Pair) -> Tensor:
    r"""x without its high frequencies: ``D_k0^T (D_k0 x D_k1^T) D_k1``, an orthogonal projection.

    Equivalent to: ``dct_resize(x, x.shape[-2:], k=k)``.

    Args:
        x: [..., m, n], float16, bfloat16, float32 or float64.
        k: (k0, k1) or one int for both, 1 <= k0 <= m, 1 <= k1 <= n.

    Returns:
        [..., m, n], dtype of x.

    Raises:
        ValueError: k, the shape or the dtype is not allowed.
    """
    out: Tensor = torch.ops.front.lowpass.default(x, _pair(k, "k"))
    return out


def dct_crop_many(
    xs: Sequence[Tensor], k: Pair, *, norm: str = "ortho", out_dtype: torch.dtype | None = None
) -> list[Tensor]:
    r"""`dct_crop` of many matrices of one shape, in one call: ``[dct_crop(x, k) for x in xs]``.

    Small matrices are spread over the threads whole, which a call for each of them cannot do.

    Args:
        xs: tensors [..., m, n] of one shape, dtype and device; may be empty.
        k, norm, out_dtype: as in `dct_crop`.

    Returns:
        A list of tensors [..., k0, k1], in the order of xs.

    Raises:
        ValueError: xs differ in shape or dtype, or an argument is not allowed.
    """
    if len(xs) == 0:  # no tensor, so nothing that torch could dispatch on
        return []
    outs: list[Tensor] = torch.ops.front.dct_crop_many.default(list(xs), _pair(k, "k"), norm=norm, out_dtype=out_dtype)
    return outs


def idct_pad_many(
    xs: Sequence[Tensor], size: Pair, *, norm: str = "ortho", out_dtype: torch.dtype | None = None
) -> list[Tensor]:
    r"""`idct_pad` of many matrices of one shape, in one call: ``[idct_pad(x, size) for x in xs]``.

    Args:
        xs: tensors [..., k0, k1] of one shape, dtype and device; may be empty.
        size, norm, out_dtype: as in `idct_pad`.

    Returns:
        A list of tensors [..., m, n], in the order of xs.

    Raises:
        ValueError: xs differ in shape or dtype, or an argument is not allowed.
    """
    if len(xs) == 0:  # no tensor, so nothing that torch could dispatch on
        return []
    sizes = _pair(size, "size")
    outs: list[Tensor] = torch.ops.front.idct_pad_many.default(list(xs), sizes, norm=norm, out_dtype=out_dtype)
    return outs


def dct2_(x: Tensor, *, norm: str = "ortho") -> Tensor:
    r"""`dct2` in place: x [..., m, n] becomes ``D_m x D_n^T``. Returns x.

    Extra memory of this and the other in-place forms: one intermediate of the size of a matrix, cut to k1 columns, in
    the compute dtype.

    Raises:
        ValueError: norm, the shape or the dtype is not allowed, or x overlaps itself.
        RuntimeError: x requires grad and grad mode is on.
    """
    torch.ops.front.dct2_.default(x, norm=norm)
    return x


def idct2_(x: Tensor, *, norm: str = "ortho") -> Tensor:
    r"""`idct2` in place: x [..., m, n] becomes ``D_m^T x D_n``. Returns x. Raises as `dct2_` does."""
    torch.ops.front.idct2_.default(x, norm=norm)
    return x


def dct_crop_(x: Tensor, k: Pair, *, norm: str = "ortho") -> Tensor:
    r"""`dct_crop` into x's own storage: ``x[..., :k0, :k1]`` becomes the coefficients, the rest of x is unspecified.

    Args:
        x: [..., m, n], float16, bfloat16, float32 or float64.
        k: (k0, k1) or one int for both, 1 <= k0 <= m, 1 <= k1 <= n.
        norm: "ortho", "backward" or "forward".

    Returns:
        The corner, a view of x. Coefficients are rounded to x's dtype.

    Raises:
        ValueError: k, norm, the shape or the dtype is not allowed, or x overlaps itself.
        RuntimeError: x requires grad and grad mode is on.
    """
    kept = _pair(k, "k")
    torch.ops.front.dct_crop_.default(x, kept, norm=norm)
    return x[..., : kept[0], : kept[1]]


def idct_pad_(x: Tensor, k: Pair, *, norm: str = "ortho") -> Tensor:
    r"""`idct_pad` in x's own storage: the coefficients in ``x[..., :k0, :k1]`` become all of x; its rest is not read.

    Args:
        x: [..., m, n], float16, bfloat16, float32 or float64.
        k: (k0, k1) or one int for both, 1 <= k0 <= m, 1 <= k1 <= n.
        norm: "ortho", "backward" or "forward".

    Returns:
        x.

    Raises:
        ValueError: k, norm, the shape or the dtype is not allowed, or x overlaps itself.
        RuntimeError: x requires grad and grad mode is on.
    """
    torch.ops.front.idct_pad_.default(x, _pair(k, "k"), norm=norm)
    return x


def lowpass_(x: Tensor, k: Pair) -> Tensor:
    r"""`lowpass` in place: x [..., m, n] loses its frequencies outside the k0 x k1 corner. Returns x.

    Raises:
        ValueError: k, the shape or the dtype is not allowed, or x overlaps itself.
        RuntimeError: x requires grad and grad mode is on.
    """
    torch.ops.front.lowpass_.default(x, _pair(k, "k"))
    return x
