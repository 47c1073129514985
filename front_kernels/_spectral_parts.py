"""The spectral loss from its two halves: for GPUs, for layers that are coupled, for matrices in shards.

First half: coefficients and spreads (mean, energy, whether constant, and the typical value that was subtracted, if one
was) in one read of x. Second half: the residual, its square, and what it adds to the gradient, in another. What stands
between them is small, and stays on the device: no value is asked for.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ._spectral import needs_composed
from ._spectral_definition import STD_EPS, Decay, composed_gradients, composed_stack, factors, loss_dtype, of_shifts

__all__ = ["Between", "Started", "apart", "graded_stack_loss", "list_loss", "stack_loss", "stacked"]

Scale = float | Tensor


class Between(NamedTuple):
    """What the second half needs, and the loss in float64, from the sums of r^2 that it finds."""

    coefficients: Tensor  # [count, k0, k1]
    terms: Tensor  # [count, 4]: factor, slope, mean, shift
    loss: Callable[[Tensor], Tensor]


class Started(NamedTuple):
    """A Between in the making: what is summed over the coefficients' columns, and what makes it of these sums.

    One process may have some columns only: then the sums are to be added up over all, in between.
    """

    sums: tuple[Tensor, ...]
    finish: Callable[..., Between]

    @property
    def whole(self) -> Between:
        """Where all columns are here."""
        return self.finish(*self.sums)


def _of_constant(c: Tensor, columns: range | None) -> Tensor:
    """The coefficient (0, 0) of every matrix, where it is in one of these columns: a view, [count, 1] or [count, 0]."""
    return c[:, 0, :1] if columns is None or columns.start == 0 else c[:, 0, :0]


def _weights(axes: Sequence[tuple[int, int | range, float]], like: Tensor) -> tuple[Tensor, Tensor]:
    """``exp(-sum_d decay_d u_d / n_d)`` for axes (n, kept, decay), and what it lacks to 1, in the dtype of `like`."""
    w, lost = factors(axes, like.device)
    return w.to(like.dtype), lost.to(like.dtype)


def apart(
    c: Tensor,
    spreads: Tensor,
    shape: Sequence[int],
    scale: Scale,
    standardize: bool,
    decay: Decay,
    columns: range | None = None,
) -> Started:
    """Of matrices that are independent: coefficients c [count, k0, k1] (overwritten), spreads [count, 4].

    Where c is some `columns` of them, so are the Between's coefficients.
    """
    m, n = shape
    mean, energy, flat, shift = spreads.unbind(1)
    constant = flat != 0
    decayed = decay is not None and any(decay)
    sums: list[Tensor] = []
    if standardize or decayed:
        # Without the mean's coefficient, which is all kept, and against which the others may be small.
        dc = _of_constant(c, columns)
        saved = dc.clone()
        dc.fill_(0)
        if decayed:
            assert decay is not None
            across = c.shape[2] if columns is None else columns
            w, lost = _weights(((m, c.shape[1], decay[0]), (n, across, decay[1])), c)
            kept = w * c.square()
            sums = [kept.sum((1, 2), dtype=torch.float64)] if standardize else []
            sums.append((lost * kept).sum((1, 2), dtype=torch.float64))
            c *= w
        else:
            sums = [torch.linalg.vector_norm(c, dim=(1, 2), dtype=torch.float64).square()]
        dc[:] = saved

    def finish(*sums: Tensor) -> Between:
        std = (energy / max(1, m * n - 1)).sqrt()
        s = std + STD_EPS if standardize else torch.ones_like(std)
        factor = 2 * scale / s.square()
        slope = torch.zeros_like(factor)
        extra = sums[-1] if decayed else 0.0
        if standardize:
            slope = -factor * (energy - sums[0]).clamp_min(0) / (s * std * max(1, m * n - 1))
        terms = torch.stack([factor.masked_fill(constant, 0), slope.masked_fill(constant, 0), mean, shift], 1)
        return Between(c, terms, lambda found: ((found + extra) / s.square()).masked_fill(constant, 0).sum())

    return Started(tuple(sums), finish)


def stacked(
    c: Tensor,
    spreads: Tensor,
    shape: Sequence[int],
    layers: int,
    scale: Scale,
    standardize: bool,
    decay: Decay,
    columns: range | None = None,
) -> Started:
    """Of the layers of a stack, of whose coefficients along the layers the first `layers` are kept; otherwise as apart.

    With ``X`` the stack, ``C`` its coefficients along rows and columns, ``Z = D_k C`` those along the layers too, the
    corner's low-pass is ``idct_pad(D_k^T w Z)``: between the halves the layers' blocks are mixed.
    """
    depth, (m, n) = len(c), shape
    mean, energy, flat, shift = (column[:, None, None] for column in spreads.unbind(1))
    rates = (0.0, 0.0, 0.0) if decay is None else decay
    constant = flat != 0 if standardize else torch.zeros_like(flat, dtype=torch.bool)
    std = (energy / max(1, m * n - 1)).sqrt()
    s = (std + STD_EPS).masked_fill(constant, 1) if standardize else torch.ones_like(std)
    if standardize:
        _of_constant(c, columns).fill_(0)
        c = torch.where(constant, 0, c / s.to(c.dtype))
    z = torch.ops.front.dct.default(c, layers, 0)
    root = torch.sym_sqrt(m * n)
    constants = None if standardize else of_shifts(shift[:, 0, 0], layers, rates[0])
    extra: tuple[Tensor, ...] = ()
    if any(rates):
        kept = (layers, z.shape[1], z.shape[2] if columns is None else columns)
        w, lost = _weights(tuple(zip((depth, m, n), kept, rates, strict=True)), z)
        squares = z.square()
        if constants is not None:
            whole = _of_constant(z, columns) + (constants[0] * root)[:, None]
            _of_constant(squares, columns)[:] = whole.square()
        extra = ((w * lost * squares).sum(dtype=torch.float64),)
        z = w * z
    low = torch.ops.front.idct.default(z, depth, 0)
    if constants is not None:
        _of_constant(low, columns).sub_((constants[1] * root)[:, None])
    sums = extra
    if standardize:
        # <X, its low-pass>, by layer. A constant layer is 0, and its low-pass is what the others leak into it.
        products = (c * low).sum((1, 2), keepdim=True, dtype=torch.float64)
        leaks = low.square().sum((1, 2), keepdim=True, dtype=torch.float64).masked_fill(~constant, 0)
        sums = products, leaks, *extra
        low = low * s.to(low.dtype)
        _of_constant(low, columns)[:] = ((mean - shift)[:, 0] * root).to(low.dtype)
    low = low.contiguous()

    def finish(*sums: Tensor) -> Between:
        factor = 2 * scale / s.square()
        slope, leaked, lost = torch.zeros_like(factor), torch.zeros_like(factor), sums
        if standardize:
            products, leaked, lost = sums[0], sums[1], sums[2:]
            slope = -factor * (energy / s.square() - products) * s / (std * max(1, m * n - 1))
        terms = torch.cat([factor.masked_fill(constant, 0), slope.masked_fill(constant, 0), mean, shift], 1)[..., 0]

        def loss(found: Tensor) -> Tensor:
            own = (found[:, None, None] / s.square()).masked_fill(constant, 0)
            return (own + leaked).sum() + sum(lost)

        return Between(low, terms, loss)

    return Started(sums, finish)


class _Group(NamedTuple):
    """What matrices must have in common to be taken together."""

    shape: torch.Size
    dtype: torch.dtype
    grad_dtype: torch.dtype | None
    k: tuple[int, int]


def list_loss(
    grads: Sequence[Tensor] | None,
    xs: Sequence[Tensor],
    ks: Sequence[int],
    scale: Scale,
    standardize: bool,
    decay: Decay,
) -> Tensor:
    """What spectral_loss_many and spectral_grad_many_ compute: matrices of one shape and k together."""
    groups: dict[_Group, tuple[list[Tensor], list[Tensor]]] = defaultdict(lambda: ([], []))
    for i, x in enumerate(xs):
        grad = None if grads is None else grads[i]
        key = _Group(x.shape[-2:], x.dtype, None if grad is None else grad.dtype, (ks[2 * i], ks[2 * i + 1]))
        groups[key][0].extend([] if grad is None else _matrices(grad))
        groups[key][1].extend(_matrices(x))
    loss = torch.zeros((), dtype=torch.float64, device=xs[0].device)
    for key, (own, matrices) in groups.items():
        if matrices:
            c, spreads = torch.ops.front._spectral_crop.default(matrices, key.k)
            between = apart(c, spreads, key.shape, scale, standardize, decay).whole
            loss = loss + _second_half(own, matrices, between)
    return loss.to(loss_dtype(xs))


def _matrices(tensor: Tensor) -> list[Tensor]:
    """Views of the matrices of a batch."""
    if tensor.dim() == 2:
        return [tensor]
    return [matrix for part in tensor.unbind(0) for matrix in _matrices(part)]


def _second_half(grads: list[Tensor], xs: list[Tensor], between: Between) -> Tensor:
    found = torch.ops.front._spectral_residual_.default(grads, xs, between.coefficients, between.terms)
    return between.loss(found)


def stack_loss(
    grads: Sequence[Tensor] | None,
    xs: Sequence[Tensor],
    k: Sequence[int],
    scale: Scale,
    standardize: bool,
    decay: Decay,
) -> Tensor:
    """The loss of matrices stacked to [layers, m, n], each standardised by itself; k and decay have three elements."""
    c, spreads = torch.ops.front._spectral_crop.default(list(xs), list(k[1:]))
    between = stacked(c, spreads, xs[0].shape, k[0], scale, standardize, decay).whole
    return _second_half(list(grads or ()), list(xs), between).to(loss_dtype(xs))


class _StackLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, k: Sequence[int], standardize: bool, decay: Decay, *xs: Tensor) -> Tensor:
        ctx.save_for_backward(*xs)
        ctx.options = k, standardize, decay
        return stack_loss(None, xs, k, 0.0, standardize, decay)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        xs, (k, standardize, decay), scale = ctx.saved_tensors, ctx.options, grads[0]
        if torch._C._functorch.is_legacy_batchedtensor(scale):  # of is_grads_batched, which the halves do not take
            unit = torch.ones((), dtype=scale.dtype, device=scale.device)
            return None, None, None, *(scale * grad for grad in _StackLoss.backward(ctx, unit)[3:] if grad is not None)
        if torch.is_grad_enabled() and (scale.requires_grad or any(x.requires_grad for x in xs)):
            found = composed_gradients(lambda own: composed_stack(own, k, standardize, decay), scale, xs)
        else:
            found = [torch.zeros_like(x) for x in xs]
            stack_loss(found, xs, k, scale, standardize, decay)
        return None, None, None, *found


def graded_stack_loss(xs: Sequence[Tensor], k: Sequence[int], standardize: bool, decay: Decay) -> Tensor:
    """stack_loss under autograd."""
    if needs_composed(xs):
        return composed_stack(xs, k, standardize, decay)
    out: Tensor = _StackLoss.apply(k, standardize, decay, *xs)  # type: ignore[no-untyped-call]
    return out
