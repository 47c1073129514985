"""Device code of the spectral loss: the kernels of kernels.py that meet x itself, with what the loss wants of it.

Forward, moments of the values that are read: sums of ``x - shift`` and of its square. What is transformed is x - shift,
too, but for 16-bit numbers, which go to the tensor cores as they are. Inverse, instead of storing the result v: with
``r = x - shift - v``, ``out += factor r + slope (x - mean)``, and the sum of ``r^2``. Both leave one sum for each
program, which are added in one order afterwards. Names as in kernels.py; `w` is x where it is read again.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .sums import _dot, _matrix, _product, _store_rows, _sums


@triton.jit
def axis(
    x, out, moments, shifts, basis, n, terms, rows, lanes, x_j, x_l, x_0, x_1, out_u, out_l, out_0, out_1, inner,
    matrices, basis_u, parity, term, scale,
    X_TYPE: tl.constexpr, OUT_TYPE: tl.constexpr, X_GROUPED: tl.constexpr, OUT_GROUPED: tl.constexpr,
    ALIGNED: tl.constexpr, FOLD: tl.constexpr,
    DOT: tl.constexpr, SUM: tl.constexpr, TERMS: tl.constexpr, PRECISION: tl.constexpr,
    BU: tl.constexpr, BJ: tl.constexpr, BL: tl.constexpr,
):  # fmt: skip
    """kernels.axis forward, and moments[z, tile of lanes] of what the first tile of rows reads."""
    half = (rows + 1) // 2 if FOLD else rows
    tiles_u, tiles_l = tl.cdiv(half, BU), tl.cdiv(lanes, BL)
    program = tl.program_id(0)
    u0 = program % tiles_u * BU
    l0 = program // tiles_u % tiles_l * BL
    z = (program // tiles_u // tiles_l).to(tl.int64)
    x = _matrix(x, z, matrices, inner, x_0, x_1, X_GROUPED, X_TYPE, ALIGNED)
    out = _matrix(out, z, matrices, inner, out_0, out_1, OUT_GROUPED, OUT_TYPE, ALIGNED)
    end = (terms + 1) // 2 if FOLD else terms
    even, odd, total, square = _sums(
        x, x_j, x_l, n, 0, end, l0, lanes, basis + u0.to(tl.int64) * basis_u, basis_u, parity, term,
        tl.load(shifts + z).to(SUM), FOLD, True, DOT, SUM, TERMS, PRECISION, BU, BJ, BL
    )  # fmt: skip
    u, l = u0 + tl.arange(0, BU), l0 + tl.arange(0, BL)  # noqa: E741
    _store_rows(out, even * scale, odd * scale, u, l, rows, lanes, out_u, out_l, FOLD)
    if u0 == 0:
        at = moments + (program // tiles_u).to(tl.int64) * 2
        tl.store(at, tl.sum(total))
        tl.store(at + 1, tl.sum(square))


@triton.jit
def crop(
    x, partials, moments, shifts, basis, lane_basis, n, rows, lanes, x_j, x_l, x_0, x_1, inner, matrices, segment,
    basis_u, parity, term, lane_basis_v,
    X_TYPE: tl.constexpr, X_GROUPED: tl.constexpr, ALIGNED: tl.constexpr, FOLD: tl.constexpr,
    DOT: tl.constexpr, SUM: tl.constexpr, TERMS: tl.constexpr, PRECISION: tl.constexpr, LANE_PRECISION: tl.constexpr,
    K: tl.constexpr, KV: tl.constexpr, BU: tl.constexpr, BJ: tl.constexpr, BL: tl.constexpr, BV: tl.constexpr,
):  # fmt: skip
    """kernels.crop, and moments[z, program]."""
    half = (rows + 1) // 2 if FOLD else rows
    tiles_l, segments = tl.cdiv(lanes, BL), tl.cdiv(half, segment)
    program = tl.program_id(0).to(tl.int64)
    part = program % (tiles_l * segments)
    z = program // (tiles_l * segments)
    l0 = (part % tiles_l).to(tl.int32) * BL
    first = (part // tiles_l).to(tl.int32) * segment
    end = tl.minimum(first + segment, half)
    x = _matrix(x, z, matrices, inner, x_0, x_1, X_GROUPED, X_TYPE, ALIGNED)
    shift = tl.load(shifts + z).to(SUM)
    even, odd, total, square = _sums(x, x_j, x_l, n, first, end, l0, lanes, basis, basis_u, parity, term, shift, FOLD,
                                     True, DOT, SUM, TERMS, PRECISION, BU, BJ, BL)  # fmt: skip
    l, u = l0 + tl.arange(0, BL), tl.arange(0, BU)[:, None]  # noqa: E741
    for v0 in range(0, KV, BV):
        v = v0 + tl.arange(0, BV)[None, :]
        lane_tile = tl.load(lane_basis + l[:, None] + v.to(tl.int64) * lane_basis_v)
        at = partials + program * (K * KV) + v
        zero = tl.zeros((BU, BV), SUM)
        if FOLD:
            tl.store(at + 2 * u * KV, _dot(even, lane_tile, zero, LANE_PRECISION))
            tl.store(at + (2 * u + 1) * KV, _dot(odd, lane_tile, zero, LANE_PRECISION))
        else:
            tl.store(at + u * KV, _dot(even, lane_tile, zero, LANE_PRECISION))
    tl.store(moments + program * 2, tl.sum(total))
    tl.store(moments + program * 2 + 1, tl.sum(square))


@triton.jit
def _blend(
    value, w, w_i, w_l, out, out_i, out_l, factor, slope, mean, shift, i, l, rows, lanes, WRITE: tl.constexpr  # noqa: E741
):  # fmt: skip
    """out[i, l] += factor r + slope (x - mean) with x = w - shift, r = x - value; the sum of r^2."""
    inside = (i < rows)[:, None] & (l < lanes)[None, :]
    rows_at, lanes_at = i.to(tl.int64)[:, None], l.to(tl.int64)[None, :]
    x = tl.load(w + rows_at * w_i + lanes_at * w_l, mask=inside, other=0).to(value.dtype) - shift
    r = tl.where(inside, x - value, 0.0)
    if WRITE:
        at = out + rows_at * out_i + lanes_at * out_l
        grad = tl.load(at, mask=inside, other=0).to(value.dtype) + (factor * r + slope * (x - mean))
        tl.store(at, grad.to(out.dtype.element_ty), mask=inside)
    return tl.sum(tl.sum(r * r, 0))


@triton.jit
def axis_back(
    x, w, out, coefficients, squares, basis, n, terms, rows, lanes, x_j, x_l, x_0, x_1, w_u, w_l, w_0, w_1,
    out_u, out_l, out_0, out_1, inner, matrices, basis_u, parity, term, scale,
    X_TYPE: tl.constexpr, W_TYPE: tl.constexpr, OUT_TYPE: tl.constexpr, X_GROUPED: tl.constexpr,
    W_GROUPED: tl.constexpr, OUT_GROUPED: tl.constexpr, ALIGNED: tl.constexpr, WRITE: tl.constexpr,
    DOT: tl.constexpr, SUM: tl.constexpr, TERMS: tl.constexpr, PRECISION: tl.constexpr,
    BU: tl.constexpr, BJ: tl.constexpr, BL: tl.constexpr,
):  # fmt: skip
    """kernels.axis inverse, blended: the last pass. `coefficients`: factor, slope, mean and shift of every matrix."""
    tiles_u, tiles_l = tl.cdiv(rows, BU), tl.cdiv(lanes, BL)
    program = tl.program_id(0)
    u0 = program % tiles_u * BU
    l0 = program // tiles_u % tiles_l * BL
    z = (program // tiles_u // tiles_l).to(tl.int64)
    factor, slope, mean, shift = _terms(coefficients + z * 4, SUM)
    x = _matrix(x, z, matrices, inner, x_0, x_1, X_GROUPED, X_TYPE, ALIGNED)
    w = _matrix(w, z, matrices, inner, w_0, w_1, W_GROUPED, W_TYPE, ALIGNED)
    out = _matrix(out, z, matrices, inner, out_0, out_1, OUT_GROUPED, OUT_TYPE, ALIGNED)
    j, l = tl.arange(0, BJ), l0 + tl.arange(0, BL)  # noqa: E741
    u = u0 + tl.arange(0, BU)
    tile = basis + u.to(tl.int64)[:, None] * basis_u + j[None, :]
    columns = x + l.to(tl.int64)[None, :] * x_l
    value = tl.zeros((BU, BL), SUM)
    for _ in range(0, terms, BJ):
        c = tl.load(columns + j.to(tl.int64)[:, None] * x_j, mask=(j < terms)[:, None] & (l < lanes)[None, :], other=0)
        value += _product(tile, term, c.to(DOT), SUM, TERMS, PRECISION)
        j += BJ
        tile += BJ
    square = _blend(value * scale, w, w_u, w_l, out, out_u, out_l, factor, slope, mean, shift, u, l, rows, lanes, WRITE)
    tl.store(squares + program, square)


@triton.jit
def _terms(at, SUM: tl.constexpr):
    """Factor, slope, mean of x - shift, shift."""
    shift = tl.load(at + 3)
    return tl.load(at).to(SUM), tl.load(at + 1).to(SUM), (tl.load(at + 2) - shift).to(SUM), shift.to(SUM)


@triton.jit
def pad(
    x, w, out, coefficients, squares, basis, lane_basis, ku, kv, rows, lanes, x_u, x_v, x_0, x_1, w_i, w_l, w_0, w_1,
    out_i, out_l, out_0, out_1, inner, matrices, segment, basis_i, lane_basis_l, scale,
    X_TYPE: tl.constexpr, W_TYPE: tl.constexpr, OUT_TYPE: tl.constexpr, X_GROUPED: tl.constexpr,
    W_GROUPED: tl.constexpr, OUT_GROUPED: tl.constexpr, ALIGNED: tl.constexpr, WRITE: tl.constexpr,
    SUM: tl.constexpr, PRECISION: tl.constexpr, BU: tl.constexpr, KV: tl.constexpr, BV: tl.constexpr,
    BI: tl.constexpr, BL: tl.constexpr,
):  # fmt: skip
    """kernels.pad, blended."""
    tiles_l, segments = tl.cdiv(lanes, BL), tl.cdiv(rows, segment)
    program = tl.program_id(0)
    l0 = program % tiles_l * BL
    first = program // tiles_l % segments * segment
    z = (program // tiles_l // segments).to(tl.int64)
    factor, slope, mean, shift = _terms(coefficients + z * 4, SUM)
    x = _matrix(x, z, matrices, inner, x_0, x_1, X_GROUPED, X_TYPE, ALIGNED)
    w = _matrix(w, z, matrices, inner, w_0, w_1, W_GROUPED, W_TYPE, ALIGNED)
    out = _matrix(out, z, matrices, inner, out_0, out_1, OUT_GROUPED, OUT_TYPE, ALIGNED)
    u, l = tl.arange(0, BU), l0 + tl.arange(0, BL)  # noqa: E741
    middle = tl.zeros((BU, BL), SUM)
    for v0 in range(0, KV, BV):
        v = v0 + tl.arange(0, BV)
        c = tl.load(x + u.to(tl.int64)[:, None] * x_u + v.to(tl.int64)[None, :] * x_v,
                    mask=(u < ku)[:, None] & (v < kv)[None, :], other=0)  # fmt: skip
        lane_tile = tl.load(lane_basis + l.to(tl.int64)[None, :] * lane_basis_l + v[:, None])
        middle = _dot(c.to(SUM), lane_tile, middle, PRECISION)
    i = first + tl.arange(0, BI)
    square = tl.sum(tl.zeros((BI,), SUM))
    for _ in range(first, tl.minimum(first + segment, rows), BI):
        a = tl.load(basis + i.to(tl.int64)[:, None] * basis_i + u[None, :])
        value = _dot(a, middle, tl.zeros((BI, BL), SUM), PRECISION)
        square += _blend(
            value * scale, w, w_i, w_l, out, out_i, out_l, factor, slope, mean, shift, i, l, rows, lanes, WRITE
        )
        i += BI
    tl.store(squares + program, square)
