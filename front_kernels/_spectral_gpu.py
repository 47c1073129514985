"""The spectral loss on CUDA devices; nothing waits for the device.

Lists are the CUDA engine's, all steps in one op, but for matrices of which the cost model would crop with the Triton
engine: these, and the forms that couple matrices, go by way of the two halves. The halves are the Triton engine's fused
kernels, or, for many coefficients, ops of the CUDA engine, with one matrix at a time in the compute dtype.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from . import _C, _contract, _settings, _spectral, engines
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
    shifts = typical_values(xs)
    blocks, sums = [], []
    for x, shift in zip(xs, shifts.to(dtype), strict=True):
        d = x.to(dtype) - shift
        blocks.append(
            torch.ops.front.dct.default(d, k[1]) if only_rows else torch.ops.front.dct_crop.default(d, list(k))
        )
        total = d.sum(dtype=torch.float64)
        sums.append(torch.stack([total, torch.linalg.vector_norm(d, dtype=torch.float64).square()]))
    return torch.stack(blocks), spreads_of(torch.stack(sums), shifts, xs[0].numel(), dtype)


def typical_values(xs: Sequence[Tensor]) -> Tensor:
    """_spectral_definition.typical_value of every matrix: [count], float64."""
    among = 1 << min(6, xs[0].shape[1].bit_length() - 1)
    first = torch.stack([x[0, :among] for x in xs])
    return first.mean(1, dtype=torch.float64).to(compute_dtype(first.dtype)).to(torch.float64)


def spreads_of(sums: Tensor, shifts: Tensor, count: int, dtype: torch.dtype) -> Tensor:
    """(mean, energy, whether constant, shift) of matrices of `count` elements from the sums of ``x - shift`` and of its
    square: [count, 4], float64."""
    total, square = sums.unbind(1)
    energy = (square - total.square() / count).clamp_min(0)
    std = (energy / max(1, count - 1)).sqrt()
    constant = std <= 8 * torch.finfo(dtype).eps * shifts.abs()
    return torch.stack([shifts + total / count, energy.masked_fill(constant, 0), constant.to(torch.float64), shifts], 1)


def residual_(
    grads: Sequence[Tensor], xs: Sequence[Tensor], coefficients: Tensor, terms: Tensor, only_rows: bool = False
) -> Tensor:
    """The second half: see csrc/ops.cpp."""
    if grads and len(grads) > 1 and not torch.ops.front._spectral_apart(list(grads), list(xs)):
        # They share memory: one after the other.
        each = [
            residual_([grad], [x], coefficients[i : i + 1], terms[i : i + 1], only_rows)
            for i, (grad, x) in enumerate(zip(grads, xs, strict=True))
        ]
        return torch.cat(each)
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
        factor, slope, mean, shift = terms[i].unbind()
        d = x.to(dtype) - shift.to(dtype)
        torch.sub(d, r, out=r)
        squares.append(torch.linalg.vector_norm(r, dtype=torch.float64).square())
        if grads:
            d.sub_((mean - shift).to(dtype)).mul_(slope.to(dtype))
            grads[i].add_(d.add_(r.mul_(factor.to(dtype))))
    return torch.stack(squares)


_in_one_op: dict[Any, bool] = {}
_MOST_KEYS = 4096


@functools.cache
def _built() -> bool:
    return bool(_C.build_info()["cuda"])


def _plans_forced() -> int:
    """How often the CUDA engine was told another plan: what was decided before may be wrong then."""
    return torch.ops.front._cuda_plans_forced.default() if _built() else 0


def _is_in_one_op(x: Tensor, k: tuple[int, int]) -> bool:
    """Whether the CUDA engine has all of this tensor's steps."""
    if not x.is_cuda or not x.numel() or not _built():
        return False
    matrix = x[(0,) * (x.dim() - 2)]
    if _fused([matrix], k, False):
        return False
    kinds = [_KINDS[t] for t in (x.dtype, compute_dtype(x.dtype), x.dtype)]
    # NOTE: asked of the library that launches, which knows the plans that it was told; _C has its own.
    return bool(torch.ops.front._cuda_spectral_fits([*matrix.shape, *k], matrix.stride(), kinds, _hardware(x.device)))


def _hardware(device: torch.device) -> list[int]:
    return list(torch.ops.front._cuda_hardware(engines.index_of(device)))


_KINDS = {torch.float16: 0, torch.bfloat16: 1, torch.float32: 2, torch.float64: 3}  # csrc/params.h's DType


def _list(
    op: str,
    grads: Sequence[Tensor] | None,
    xs: Sequence[Tensor],
    ks: Sequence[int],
    scale: float | Tensor,
    standardize: bool,
    decay: Decay,
) -> Tensor:
    """The sum of the losses; grads, if there are any, get theirs."""
    if not xs or len(ks) != 2 * len(xs) or (grads is not None and len(grads) != len(xs)):
        _spectral.check(op, xs, ks, decay, grads)
    _spectral.check_decay(op, decay)
    settings = op, _settings.engine(), _settings.precision(), xs[0].device, _plans_forced()
    alike = torch.ops.front._spectral_alike(list(grads or ()), list(xs), list(ks))
    in_one: dict[int, bool] = {}
    for i in dict.fromkeys(alike):
        # Checks and choices are those of the last tensor like this one: they take longer than a small kernel.
        x, k, grad = xs[i], (ks[2 * i], ks[2 * i + 1]), None if grads is None else grads[i]
        key = settings, k, *((t.shape, t.stride(), t.dtype, t.device) for t in ([x] if grad is None else [x, grad]))
        if key not in _in_one_op:
            _spectral.check(op, xs, ks, decay, grads)
            if len(_in_one_op) >= _MOST_KEYS:
                _in_one_op.clear()
            _in_one_op[key] = _is_in_one_op(x, k)
        in_one[i] = _in_one_op[key]
    whole = [i for i, first in enumerate(alike) if in_one[first]]
    others = [i for i, first in enumerate(alike) if not in_one[first]]

    def those(places: list[int]) -> tuple[list[Tensor], list[Tensor], list[int]]:
        if len(places) == len(xs):
            return list(grads or ()), list(xs), list(ks)
        own = [] if grads is None else [grads[i] for i in places]
        return own, [xs[i] for i in places], [k for i in places for k in ks[2 * i : 2 * i + 2]]

    dtype = torch.float64 if any(xs[i].dtype == torch.float64 for i in in_one) else torch.float32
    losses: list[Tensor] = []
    if isinstance(scale, Tensor) and scale.device != xs[0].device:
        scale = float(scale) if scale.device.type == "cpu" else scale.to(xs[0].device)
    if grads is not None and others:  # before any of them is changed
        torch.ops.front._spectral_apart(list(grads), list(xs))
    if whole:
        at = [scale.to(torch.float64)] if isinstance(scale, Tensor) else []
        factor = 1.0 if isinstance(scale, Tensor) else scale
        found = torch.ops.front._cuda_spectral_(*those(whole), factor, at, standardize, decay)
        losses.append(found.sum().to(dtype))
    if others:
        own, matrices, kept = those(others)
        given = None if grads is None else own
        losses.append(list_loss(given, matrices, kept, scale, standardize, decay).to(dtype))
    return losses[0] if len(losses) == 1 else torch.stack(losses).sum()


def _loss(x: Tensor, k: Sequence[int], *, standardize: bool = False) -> Tensor:
    _contract.lowpass(x, k, op="spectral_loss")
    return _list("spectral_loss", None, [x], k, 0.0, standardize, None)


def _loss_many(xs: Sequence[Tensor], ks: Sequence[int], *, standardize: bool = False, decay: Decay = None) -> Tensor:
    return _list("spectral_loss_many", None, xs, ks, 0.0, standardize, decay)


def _grad_many_(
    grads: Sequence[Tensor],
    xs: Sequence[Tensor],
    ks: Sequence[int],
    scale: float | Tensor,
    *,
    standardize: bool = False,
    decay: Decay = None,
) -> Tensor:
    return _list("spectral_grad_many_", grads, xs, ks, scale, standardize, decay)


def _grad_many(
    scale: Tensor, xs: Sequence[Tensor], ks: Sequence[int], *, standardize: bool = False, decay: Decay = None
) -> list[Tensor]:
    grads = [torch.empty_like(x, memory_format=torch.contiguous_format) for x in xs]
    torch._foreach_zero_(grads)
    _list("_spectral_grad_many", grads, xs, ks, scale, standardize, decay)
    return grads


def register() -> torch.library.Library:
    """Registers the CUDA key; the returned Library keeps the kernels alive."""
    library = torch.library.Library("front", "IMPL")
    for name, kernel in (
        ("spectral_loss", _loss),
        ("spectral_loss_many", _loss_many),
        ("spectral_grad_many_", _grad_many_),
        ("_spectral_accumulate_", _grad_many_),
        ("_spectral_grad_many", _grad_many),
        ("_spectral_crop", crop),
        ("_spectral_residual_", residual_),
    ):
        library.impl(name, kernel, "CUDA")
    return library
