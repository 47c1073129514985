"""The spectral loss of FRONT's refinement: energy outside the low-frequency corner, and its gradient.

For a matrix x [m, n] with orthonormal coefficients ``C = dct2(x)``::

    E = sum_uv (1 - w_uv) C_uv^2,   w_uv = exp(-decay0 u / m - decay1 v / n) for u < k0, v < k1, otherwise 0

Without decay that is all energy outside the corner, ``||x||^2 - ||dct_crop(x, k)||^2``. Standardised, it is that of
``(x - mean) / s`` with ``s = std + 1e-8`` (Bessel's correction). Transforms are in float32, or float64 for
float64, of ``x - typical``, so that a mean far above the deviation costs no digits where the first row is like the
others. The typical value of a matrix is the mean of the first values of its first row, as many as the largest power of
two up to 64. Sums are in float64, on a GPU of what its threads have summed in the transform's dtype. A constant
matrix, ``std <= 8 eps |typical|`` with the eps of the transform's dtype, has loss 0 and gradient 0.

No full spectrum is formed. The gradient, ``2 (x - idct_pad(w dct_crop(x, k)))`` and the terms of the standardisation,
takes two reads of x and one read-modify-write of the gradient.

Source: the refinement of FRONT (FRONT+), Shen et al., ICML 2026, arXiv:2603.07523. The paper's exact formula for the
weighting by a decay rate was not available when this was written.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from . import _contract, _spectral, _spectral_parts
from .ops import Pair, _pair

__all__ = [
    "spectral_grad_many_",
    "spectral_loss",
    "spectral_loss_many",
    "spectral_stack_grad_",
    "spectral_stack_loss",
]


def spectral_loss(x: Tensor, k: Pair, *, standardize: bool = False) -> Tensor:
    r"""Energy of x outside its low-frequency corner: ``||x||^2 - ||dct_crop(x, k)||^2``, summed over the batch.

    Args:
        x: [..., m, n], float16, bfloat16, float32 or float64.
        k: (k0, k1) or one int for both, 1 <= k0 <= m, 1 <= k1 <= n.
        standardize: of every matrix by itself, ``(x - mean) / (std + 1e-8)``.

    Returns:
        A scalar, float32 (float64 for float64). Differentiable to any order. Where it is less than 1 % of the energy it
        is computed as ``||x - lowpass(x, k)||^2``, which does not cancel. Squares are formed in that dtype: in float32
        the loss of elements beyond about 1e18 is infinite or, standardised, NaN, and those below 1e-22 count as 0.

    Raises:
        ValueError: k, the shape or the dtype is not allowed.
    """
    out: Tensor = torch.ops.front.spectral_loss.default(x, _pair(k, "k"), standardize=standardize)
    return out


def _flat(op: str, xs: Sequence[Tensor], ks: Sequence[Pair]) -> list[int]:
    if len(xs) == 0:  # no tensor, so nothing that torch could dispatch on
        raise ValueError(f"front::{op}: xs must not be empty")
    if not isinstance(ks, Sequence):
        raise TypeError(f"front::{op}: ks must be one (rows, columns) or int for each of xs, got {ks!r}")
    pairs = [k if type(k) is tuple else _pair(k, f"ks[{i}]") for i, k in enumerate(ks)]
    for i, pair in enumerate(pairs):
        if len(pair) != 2:
            raise ValueError(f"front::{op}: ks[{i}] must have 2 elements (rows, columns), got {list(pair)}")
    return [value for pair in pairs for value in pair]


def spectral_loss_many(
    xs: Sequence[Tensor], ks: Sequence[Pair], *, standardize: bool = False, decay: Sequence[float] | None = None
) -> Tensor:
    r"""Sum of the spectral losses of many tensors, of any shapes and dtypes, in one call.

    Args:
        xs: tensors [..., m, n] on one device; at least one.
        ks: for each tensor its (k0, k1), or one int for both.
        standardize: every matrix by itself.
        decay: rates (decay0, decay1), both at least 0, by which the weight of what is kept falls; None: none.

    Returns:
        A scalar, float32, or float64 where one of xs is. Differentiable to any order.

    Raises:
        ValueError: an argument is not allowed.
    """
    flat = _flat("spectral_loss_many", xs, ks)
    out: Tensor = torch.ops.front.spectral_loss_many.default(list(xs), flat, standardize=standardize, decay=decay)
    return out


def spectral_grad_many_(
    grads: Sequence[Tensor],
    xs: Sequence[Tensor],
    ks: Sequence[Pair],
    scale: float,
    *,
    standardize: bool = False,
    decay: Sequence[float] | None = None,
) -> Tensor:
    r"""Adds ``scale`` times the gradient of `spectral_loss_many` to gradients that exist; returns the (unscaled) loss.

    No graph is recorded and xs are not copied. Extra memory: for each matrix at work, one intermediate of m x k1 and
    its k0 x k1 coefficients.

    Args:
        grads: for each of xs a tensor of its shape, of its dtype or the compute dtype; they may be views. An
            error where one may share memory with one of xs: their ranges overlap, and no stride shows that their
            elements do not (columns of one matrix may stand side by side). Gradients that share memory among
            themselves get the sum: one is added to after the other.
        xs, ks, standardize, decay: as in `spectral_loss_many`.
        scale: what the gradient is multiplied by.

    Raises:
        ValueError: an argument is not allowed.
        RuntimeError: one of grads requires grad and grad mode is on.
    """
    flat = _flat("spectral_grad_many_", xs, ks)
    out: Tensor
    if torch.compiler.is_dynamo_compiling() and not torch.compiler.is_exporting():
        # An op's number would be a constant of the graph, with a graph for every scale.
        at = torch.ones((), dtype=torch.float64, device=xs[0].device) * scale
        out = torch.ops.front._spectral_accumulate_.default(
            list(grads), list(xs), flat, at, standardize=standardize, decay=decay
        )
    else:
        out = torch.ops.front.spectral_grad_many_.default(
            list(grads), list(xs), flat, scale, standardize=standardize, decay=decay
        )
    return out


def spectral_stack_loss(
    xs: Sequence[Tensor], k: Sequence[int], *, standardize: bool = False, decay: Sequence[float] | None = None
) -> Tensor:
    r"""Spectral loss of matrices stacked to [layers, m, n], with the layers as an axis of the transform.

    ``E = sum (1 - w) C^2`` with ``C`` the orthonormal coefficients along all three axes, ``w = exp(-decay0 l / layers -
    decay1 u / m - decay2 v / n)`` in the corner k and 0 outside. With all layers kept and no decay along them it is
    the sum of the matrices' own losses.

    Args:
        xs: matrices [m, n] of one shape, dtype and device: the layers, in order.
        k: (layers kept, k0, k1).
        standardize: every matrix by itself; constant ones are 0 then, and have gradient 0.
        decay: three rates, at least 0; None: none.

    Returns:
        A scalar, float32 (float64 for float64). Differentiable to any order. Extra memory: the coefficients of all
        layers.

    Raises:
        ValueError: an argument is not allowed.
    """
    _check_stack("spectral_stack_loss", xs, k, standardize, decay)
    return _spectral_parts.graded_stack_loss(list(xs), list(k), standardize, decay)


def spectral_stack_grad_(
    grads: Sequence[Tensor],
    xs: Sequence[Tensor],
    k: Sequence[int],
    scale: float,
    *,
    standardize: bool = False,
    decay: Sequence[float] | None = None,
) -> Tensor:
    r"""Adds ``scale`` times the gradient of `spectral_stack_loss` to gradients that exist; returns the (unscaled) loss.

    Args:
        grads: as in `spectral_grad_many_`.
        xs, k, standardize, decay: as in `spectral_stack_loss`.
        scale: what the gradient is multiplied by.

    Raises:
        ValueError: an argument is not allowed.
        RuntimeError: one of grads requires grad and grad mode is on.
    """
    _check_stack("spectral_stack_grad_", xs, k, standardize, decay, grads)
    if not _contract.is_number(scale):
        raise TypeError(f"front::spectral_stack_grad_: scale must be a number, got {scale!r}")
    _spectral.check_writable("spectral_stack_grad_", grads)
    with torch.no_grad():
        return _spectral_parts.stack_loss(list(grads), list(xs), list(k), scale, standardize, decay)


def _check_stack(
    op: str,
    xs: Sequence[Tensor],
    k: Sequence[int],
    standardize: bool,
    decay: Sequence[float] | None,
    grads: Sequence[Tensor] | None = None,
) -> None:
    if len(xs) == 0:
        raise ValueError(f"front::{op}: xs must not be empty")
    for name, tensors in (("xs", xs), ("grads", () if grads is None else grads)):
        for i, x in enumerate(tensors):
            if not isinstance(x, Tensor):
                raise TypeError(f"front::{op}: {name}[{i}] must be a tensor, got {x!r}")
    if type(standardize).__name__ not in ("bool", "bool_"):  # numpy's, too
        raise TypeError(f"front::{op}: standardize must be True or False, got {standardize!r}")
    if not isinstance(k, Sequence):
        raise TypeError(f"front::{op}: k must be (layers, rows, columns), got {k!r}")
    if len(k) != 3:
        raise ValueError(f"front::{op}: k must have 3 elements (layers, rows, columns), got {list(k)}")
    for i, value in enumerate(() if torch.compiler.is_compiling() else k):  # there it may be a number of a graph
        if not hasattr(value, "__index__"):
            raise TypeError(f"front::{op}: k[{i}] must be a whole number, got {value!r}")
    _spectral.check_decay(op, decay, ("layers", "rows", "columns"))
    if not torch.compiler.is_compiling():  # there the ops check tensors, where a graph can have it
        _spectral.check(op, xs, [1, 1] * len(xs), None, grads)
        _contract.check_alike(op, xs)
        if xs[0].dim() != 2:
            raise ValueError(f"front::{op}: xs must be matrices, got shape {list(xs[0].shape)}")
    for i, (value, n) in enumerate(zip(k, (len(xs), *xs[0].shape), strict=False)):
        if not 1 <= value <= n:
            of = "the size of xs[0]" if i else "the number of xs"
            raise ValueError(f"front::{op}: k[{i}] must be between 1 and {n} ({of}), got {value}")
