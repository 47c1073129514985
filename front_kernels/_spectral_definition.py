"""The spectral loss as its definition, in ops that torch can differentiate."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Decay = Sequence[float] | None
STD_EPS = 1e-8
"""What is added to a standard deviation."""


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def loss_dtype(xs: Sequence[Tensor]) -> torch.dtype:
    return torch.float64 if any(x.dtype == torch.float64 for x in xs) else torch.float32


def typical_value(x: Tensor) -> Tensor:
    """About where the values of each matrix lie: what is subtracted before any transform, [..., 1, 1].

    The mean of the first values of the first row, as many as the largest power of two up to 64: of equal values it is
    that value. In the compute dtype.
    """
    # NOTE: sizes may be symbols, on which this must not branch: always 64 places, some of which do not count.
    place = torch.arange(64, device=x.device)
    first = x.detach()[..., :1, :].index_select(-1, place.clamp(max=x.shape[-1] - 1)).to(torch.float64)
    counts = torch.tensor([1 << j.bit_length() for j in range(64)], device=x.device) <= x.shape[-1]
    total = first.masked_fill(~counts, 0).sum(-1, keepdim=True)
    return (total / counts.sum()).to(compute_dtype(x.dtype))


def is_constant(std: Tensor, shift: Tensor, dtype: torch.dtype) -> Tensor:
    """``std <= 8 eps |typical value|``, with the eps of the compute dtype: such a matrix has loss and gradient 0."""
    return std <= 8 * torch.finfo(dtype).eps * shift.abs()


def factors(axes: Sequence[tuple[int, int | range, float]], device: torch.device) -> tuple[Tensor, Tensor]:
    """``w = exp(-sum_d decay_d u_d / n_d)`` for axes (n, u, decay), and ``1 - w`` without cancellation: float64.

    u: how many coefficients are kept, from the first on, or which.
    """
    exponent = torch.zeros((), dtype=torch.float64, device=device)
    for n, kept, decay in axes:
        # NOTE: sizes may be symbols, which a range of them would make numbers.
        first, last = (kept.start, kept.stop) if isinstance(kept, range) else (0, kept)
        along = torch.arange(first, last, dtype=torch.float64, device=device) * (-decay / n)
        exponent = exponent[..., None] + along
    return torch.exp(exponent), -torch.expm1(exponent)


def composed(x: Tensor, k: Sequence[int], standardize: bool, decay: Decay) -> Tensor:
    """The loss of every matrix of x [..., m, n]: [...], in the compute dtype.

    ``||d - low||^2 + sum w (1 - w) C^2`` with ``d = x - mean``, ``C = dct_crop(d, k)``, ``low = idct_pad(w C)``.
    """
    m, n = x.shape[-2:]
    d, scale, constant = _centred(x, standardize)
    rates = (0.0, 0.0) if decay is None else decay
    w, lost = (f.to(d.dtype) for f in factors(((m, k[0], rates[0]), (n, k[1], rates[1])), x.device))
    c = torch.ops.front.dct_crop.default(d, list(k))
    r = d - torch.ops.front.idct_pad.default(w * c, [m, n])
    energy = r.square().sum((-2, -1)) + (w * lost * c.square()).sum((-2, -1))
    energy = energy / scale[..., 0, 0].square()
    return torch.where(constant[..., 0, 0], torch.zeros_like(energy), energy)


def composed_stack(xs: Sequence[Tensor], k: Sequence[int], standardize: bool, decay: Decay) -> Tensor:
    """The loss of matrices stacked to [layers, m, n]; see _spectral_parts.stack_loss."""
    x = torch.stack([x.to(compute_dtype(x.dtype)) for x in xs])
    shift = typical_value(x)
    d = x - shift
    if standardize:
        centred, scale, constant = _centred(x, True)
        d, shift = torch.where(constant, torch.zeros_like(d), centred / scale), torch.zeros_like(shift)
    axes = tuple(zip(x.shape, k, (0.0, 0.0, 0.0) if decay is None else decay, strict=True))
    w, lost = (f.to(x.dtype) for f in factors(axes, x.device))
    z = torch.ops.front.dct.default(torch.ops.front.dct_crop.default(d, list(k[1:])), k[0], 0)
    low = torch.ops.front.idct.default(w * z, len(xs), 0)
    along, beyond = of_shifts(shift[:, 0, 0], *axes[0][1:])
    r = d + beyond.to(d.dtype)[:, None, None] - torch.ops.front.idct_pad.default(low, list(x.shape[1:]))
    first = torch.zeros_like(z)
    first[:, 0, 0] = along * torch.sym_sqrt(x.shape[1] * x.shape[2])
    loss: Tensor = r.square().sum() + (w * lost * (z + first).square()).sum()
    return loss


def of_shifts(shift: Tensor, kept: int, rate: float) -> tuple[Tensor, Tensor]:
    """Of a value for each layer of a stack: its coefficients along the layers, and what their low-pass leaves of it.

    A stack of constant matrices has no others; in float64, because they may be far above all deviations.
    """
    shift = shift.to(torch.float64)
    w, _ = factors([(len(shift), kept, rate)], shift.device)
    along = torch.ops.front.dct.default(shift, kept, 0)
    return along, shift - torch.ops.front.idct.default(w * along, len(shift), 0)


def _centred(x: Tensor, standardize: bool) -> tuple[Tensor, Tensor, Tensor]:
    """``x - mean``, what it is divided by (std + 1e-8, or 1), and which matrices are constant: [..., 1, 1]."""
    x = x.to(compute_dtype(x.dtype))
    count = x.shape[-2] * x.shape[-1]
    shift = typical_value(x)
    d = x - shift
    d = d - d.mean((-2, -1), keepdim=True)
    constant = is_constant(_std(d.detach(), count), shift, x.dtype)
    if not standardize:
        return d, torch.ones_like(x[..., :1, :1]), constant
    # The std of a constant matrix has no derivative: another one's is taken, and thrown away with its loss.
    ramp = torch.arange(1, x.shape[-1] + 1, dtype=x.dtype, device=x.device)
    return d, _std(torch.where(constant, ramp.expand_as(d), d), count) + STD_EPS, constant


def _std(d: Tensor, count: int) -> Tensor:
    return (d.square().sum((-2, -1), keepdim=True) / max(1, count - 1)).sqrt()


def composed_many(xs: Sequence[Tensor], ks: Sequence[int], standardize: bool, decay: Decay) -> Tensor:
    """What spectral_loss_many computes, differentiable to any order."""
    dtype = loss_dtype(xs)
    losses = [composed(x, ks[2 * i : 2 * i + 2], standardize, decay).sum(dtype=dtype) for i, x in enumerate(xs)]
    return torch.stack(losses).sum()


def composed_gradients(loss: Callable[[list[Tensor]], Tensor], scale: Tensor, xs: Sequence[Tensor]) -> list[Tensor]:
    """The gradients of ``scale * loss(xs)`` with a graph of their own."""
    # Aliases: where one x is part of another one, its derivative must not run into the other's.
    own = [x.view_as(x) if x.requires_grad else x.detach().requires_grad_() for x in xs]
    return list(torch.autograd.grad(loss(own), own, scale, create_graph=True))
