"""The kernels. Every one multiplies tiles of a matrix by tiles of a DCT basis ("A", rows x terms of a sum).

Names of sizes and strides: `j` is the axis that is summed over, `l` the lanes (the other axis of the matrix), `u` the
rows of the basis, which are the results. A tensor has strides `_j` / `_u` and `_l`, and two batch axes (`inner` is the
size of the last one). With X_GROUPED and OUT_GROUPED, x and out are arrays of addresses, one for every `matrices` of
the batch, of matrices of one layout.

How sums are made, FOLD and MOMENTS are told in sums.py.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .sums import GROUP, RUNS, _crop_lanes, _dot, _matrix, _moment_sums, _store, _store_rows, _sums


@triton.jit
def axis(
    x, out, basis, n, terms, rows, lanes, x_j, x_l, x_0, x_1, out_u, out_l, out_0, out_1, inner, matrices,
    segment, parts, basis_u, parity, term, scale,
    X_TYPE: tl.constexpr, OUT_TYPE: tl.constexpr, X_GROUPED: tl.constexpr, OUT_GROUPED: tl.constexpr,
    ALIGNED: tl.constexpr, FOLD: tl.constexpr,
    DOT: tl.constexpr, SUM: tl.constexpr, TERMS: tl.constexpr, PRECISION: tl.constexpr,
    BU: tl.constexpr, BJ: tl.constexpr, BL: tl.constexpr,
):  # fmt: skip
    """out[u, l] = scale sum_j basis[u, j] x[j, l], j < terms: one axis of every matrix, forward or inverse.

    A program makes BU rows (with FOLD, of each parity) and BL lanes. Programs that read the same part of x are
    neighbours, so that it comes from the second-level cache for all but one. Sums may be divided into parts of
    `segment` terms, each of which is a matrix of out then; `add` has the sum of them.
    """
    half = (rows + 1) // 2 if FOLD else rows
    end = (terms + 1) // 2 if FOLD else terms
    tiles_u, tiles_l = tl.cdiv(half, BU), tl.cdiv(lanes, BL)
    program = tl.program_id(0)
    u0 = program % tiles_u * BU
    l0 = program // tiles_u % tiles_l * BL
    part = program // tiles_u // tiles_l % parts
    z = (program // tiles_u // tiles_l // parts).to(tl.int64)
    first = part * segment
    end = tl.minimum(first + segment, end)
    x = _matrix(x, z, matrices, inner, x_0, x_1, X_GROUPED, X_TYPE, ALIGNED)
    out = _matrix(out, z, matrices, inner, out_0, out_1, OUT_GROUPED, OUT_TYPE, ALIGNED)
    out += part.to(tl.int64) * rows * lanes
    even, odd, _, _ = _sums(x, x_j, x_l, n, first, end, l0, lanes, basis + u0.to(tl.int64) * basis_u, basis_u, parity,
                            term, 0, FOLD, False, DOT, SUM, TERMS, PRECISION, BU, BJ, BL)  # fmt: skip
    u, l = u0 + tl.arange(0, BU), l0 + tl.arange(0, BL)  # noqa: E741
    _store_rows(out, even * scale, odd * scale, u, l, rows, lanes, out_u, out_l, FOLD)


@triton.jit
def axis_moments(
    x, out, basis, n, rows, lanes, x_j, x_l, x_0, x_1, out_u, out_l, out_0, out_1, inner, matrices,
    segment, parts, step, term, scale,
    X_TYPE: tl.constexpr, OUT_TYPE: tl.constexpr, X_GROUPED: tl.constexpr, OUT_GROUPED: tl.constexpr,
    ALIGNED: tl.constexpr,
    BLOCK: tl.constexpr, MOMENTS: tl.constexpr, GROUP0: tl.constexpr, GROUP1: tl.constexpr, GROUP2: tl.constexpr,
    WHOLE: tl.constexpr, BU: tl.constexpr, BL: tl.constexpr,
):  # fmt: skip
    """As axis, forward, of BLOCK neighbours' moments. A segment is of runs."""
    tiles_u, tiles_l = tl.cdiv(rows, BU), tl.cdiv(lanes, BL)
    program = tl.program_id(0)
    u0 = program % tiles_u * BU
    l0 = program // tiles_u % tiles_l * BL
    part = program // tiles_u // tiles_l % parts
    z = (program // tiles_u // tiles_l // parts).to(tl.int64)
    first = part * segment
    end = tl.minimum(first + segment, tl.cdiv(n, BLOCK))
    x = _matrix(x, z, matrices, inner, x_0, x_1, X_GROUPED, X_TYPE, ALIGNED)
    out = _matrix(out, z, matrices, inner, out_0, out_1, OUT_GROUPED, OUT_TYPE, ALIGNED)
    out += part.to(tl.int64) * rows * lanes
    sums = _moment_sums(x, x_j, x_l, n, first, end, l0, lanes, basis + u0 * (GROUP * RUNS), step, term,
                        BLOCK, MOMENTS, GROUP0, GROUP1, GROUP2, WHOLE, BU, BL)  # fmt: skip
    _store(out, sums * scale, u0 + tl.arange(0, BU), l0 + tl.arange(0, BL), rows, lanes, out_u, out_l)


@triton.jit
def crop_moments(
    x, partials, basis, lane_basis, n, lanes, x_j, x_l, x_0, x_1, inner, matrices, segment, step, term, lane_basis_v,
    X_TYPE: tl.constexpr, X_GROUPED: tl.constexpr, ALIGNED: tl.constexpr, LANE_PRECISION: tl.constexpr,
    BLOCK: tl.constexpr, MOMENTS: tl.constexpr, GROUP0: tl.constexpr, GROUP1: tl.constexpr, GROUP2: tl.constexpr,
    WHOLE: tl.constexpr, K: tl.constexpr, KV: tl.constexpr, BU: tl.constexpr, BL: tl.constexpr, BV: tl.constexpr,
):  # fmt: skip
    """As crop, of BLOCK neighbours' moments. A segment is of runs."""
    runs = tl.cdiv(n, BLOCK)
    tiles_l, segments = tl.cdiv(lanes, BL), tl.cdiv(runs, segment)
    program = tl.program_id(0).to(tl.int64)
    part = program % (tiles_l * segments)
    z = program // (tiles_l * segments)
    l0 = (part % tiles_l).to(tl.int32) * BL
    first = (part // tiles_l).to(tl.int32) * segment
    x = _matrix(x, z, matrices, inner, x_0, x_1, X_GROUPED, X_TYPE, ALIGNED)
    sums = _moment_sums(x, x_j, x_l, n, first, tl.minimum(first + segment, runs), l0, lanes, basis, step, term,
                        BLOCK, MOMENTS, GROUP0, GROUP1, GROUP2, WHOLE, BU, BL)  # fmt: skip
    _crop_lanes(sums, partials + program * (K * KV), tl.arange(0, BU)[:, None], l0 + tl.arange(0, BL), lane_basis,
                lane_basis_v, KV, BU, BV, LANE_PRECISION)  # fmt: skip


@triton.jit
def crop(
    x, partials, basis, lane_basis, n, rows, lanes, x_j, x_l, x_0, x_1, inner, matrices, segment,
    basis_u, parity, term, lane_basis_v,
    X_TYPE: tl.constexpr, X_GROUPED: tl.constexpr, ALIGNED: tl.constexpr, FOLD: tl.constexpr,
    DOT: tl.constexpr, SUM: tl.constexpr, TERMS: tl.constexpr, PRECISION: tl.constexpr, LANE_PRECISION: tl.constexpr,
    K: tl.constexpr, KV: tl.constexpr, BU: tl.constexpr, BJ: tl.constexpr, BL: tl.constexpr, BV: tl.constexpr,
):  # fmt: skip
    """Both axes at once, reading x once: partials[z, program, u, v], whose sum over the programs are the coefficients.

    A program takes BL lanes and `segment` terms of the sums along j. It first forms basis x for its lanes, all rows u,
    then multiplies that by the lanes' part of their own basis. The lanes' basis is thus read once per program, and
    there are as many partials as programs: a few for each multiprocessor, whatever the size of x.
    """
    half = (rows + 1) // 2 if FOLD else rows
    tiles_l, segments = tl.cdiv(lanes, BL), tl.cdiv(half, segment)
    program = tl.program_id(0).to(tl.int64)
    part = program % (tiles_l * segments)
    z = program // (tiles_l * segments)
    l0 = (part % tiles_l).to(tl.int32) * BL
    first = (part // tiles_l).to(tl.int32) * segment
    end = tl.minimum(first + segment, half)
    x = _matrix(x, z, matrices, inner, x_0, x_1, X_GROUPED, X_TYPE, ALIGNED)
    even, odd, _, _ = _sums(x, x_j, x_l, n, first, end, l0, lanes, basis, basis_u, parity, term, 0,
                            FOLD, False, DOT, SUM, TERMS, PRECISION, BU, BJ, BL)  # fmt: skip
    l, u = l0 + tl.arange(0, BL), tl.arange(0, BU)[:, None]  # noqa: E741
    # Lanes past the end of x are zero in `even` and `odd`, and in their basis.
    at = partials + program * (K * KV)
    if FOLD:
        _crop_lanes(even, at, 2 * u, l, lane_basis, lane_basis_v, KV, BU, BV, LANE_PRECISION)
        _crop_lanes(odd, at, 2 * u + 1, l, lane_basis, lane_basis_v, KV, BU, BV, LANE_PRECISION)
    else:
        _crop_lanes(even, at, u, l, lane_basis, lane_basis_v, KV, BU, BV, LANE_PRECISION)


@triton.jit
def add(
    partials, out, parts, size, columns, ku, kv, out_u, out_v, out_0, out_1, inner, matrices, scale,
    OUT_TYPE: tl.constexpr, OUT_GROUPED: tl.constexpr, ALIGNED: tl.constexpr, SUM: tl.constexpr,
    B: tl.constexpr, BP: tl.constexpr,
):  # fmt: skip
    """out[z, u, v] = scale sum over p of partials[z, p, u, v], of `size` elements each, always in the same order."""
    tiles = tl.cdiv(size, B)
    program = tl.program_id(0)
    z = (program // tiles).to(tl.int64)
    at = program % tiles * B + tl.arange(0, B)
    part = tl.arange(0, BP)
    # Of 64 bits, whatever the size is.
    step = tl.full((), 1, tl.int64) * size
    from_ = partials + z * parts * step + part[:, None] * step + at[None, :]
    total = tl.zeros((BP, B), SUM)
    for p in range(0, parts, BP):
        total += tl.load(from_, mask=(part + p < parts)[:, None] & (at < size)[None, :], other=0)
        from_ += BP * step
    value = tl.sum(total, 0) * scale
    out = _matrix(out, z, matrices, inner, out_0, out_1, OUT_GROUPED, OUT_TYPE, ALIGNED)
    u, v = at // columns, at % columns
    out += u.to(tl.int64) * out_u + v.to(tl.int64) * out_v
    tl.store(out, value.to(out.dtype.element_ty), mask=(u < ku) & (v < kv))


@triton.jit
def pad(
    x, out, basis, lane_basis, ku, kv, rows, lanes, x_u, x_v, x_0, x_1, out_i, out_l, out_0, out_1, inner, matrices,
    segment, basis_i, lane_basis_l, scale,
    X_TYPE: tl.constexpr, OUT_TYPE: tl.constexpr, X_GROUPED: tl.constexpr, OUT_GROUPED: tl.constexpr,
    ALIGNED: tl.constexpr, SUM: tl.constexpr,
    PRECISION: tl.constexpr, BU: tl.constexpr, KV: tl.constexpr, BV: tl.constexpr, BI: tl.constexpr,
    BL: tl.constexpr,
):  # fmt: skip
    """out[i, l] = scale sum_uv basis[i, u] x[u, v] lane_basis[l, v]: both axes of the inverse, all of x in one tile.

    A program takes BL lanes and `segment` rows: x times its lanes' basis once, then BI rows of the result at a time.
    """
    tiles_l, segments = tl.cdiv(lanes, BL), tl.cdiv(rows, segment)
    program = tl.program_id(0)
    l0 = program % tiles_l * BL
    first = program // tiles_l % segments * segment
    z = (program // tiles_l // segments).to(tl.int64)
    x = _matrix(x, z, matrices, inner, x_0, x_1, X_GROUPED, X_TYPE, ALIGNED)
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
    for _ in range(first, tl.minimum(first + segment, rows), BI):
        a = tl.load(basis + i.to(tl.int64)[:, None] * basis_i + u[None, :])
        value = _dot(a, middle, tl.zeros((BI, BL), SUM), PRECISION)
        _store(out, value * scale, i, l, rows, lanes, out_i, out_l)
        i += BI


@triton.jit(do_not_specialize=[f"a{i}" for i in range(16)])
def addresses(
    table, a0, a1, a2, a3, a4, a5, a6, a7,
    a8, a9, a10, a11, a12, a13, a14, a15,
):  # fmt: skip
    """Writes 16 addresses into a table. Unlike a copy from the host, a CUDA graph holds them by itself."""
    tl.store(table + 0, a0)
    tl.store(table + 1, a1)
    tl.store(table + 2, a2)
    tl.store(table + 3, a3)
    tl.store(table + 4, a4)
    tl.store(table + 5, a5)
    tl.store(table + 6, a6)
    tl.store(table + 7, a7)
    tl.store(table + 8, a8)
    tl.store(table + 9, a9)
    tl.store(table + 10, a10)
    tl.store(table + 11, a11)
    tl.store(table + 12, a12)
    tl.store(table + 13, a13)
    tl.store(table + 14, a14)
    tl.store(table + 15, a15)
