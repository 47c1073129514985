"""Device code. Every kernel multiplies tiles of a matrix by tiles of a DCT basis ("A", rows x terms of a sum).

Names of sizes and strides: `j` is the axis that is summed over, `l` the lanes (the other axis of the matrix), `u` the
rows of the basis, which are the results. A tensor has strides `_j` / `_u` and `_l`, and two batch axes (`inner` is the
size of the last one). With X_GROUPED and OUT_GROUPED, x and out are arrays of addresses, one for every `matrices` of
the batch, of matrices of one layout.

Sums. A tensor core may truncate as it adds, which over thousands of terms costs digits. So each step's product, BJ
terms, starts from zero and is added to the running sum by float32 additions, which round. (With one term, Triton merges
the addition into the product; its three TF32 or six bfloat16 products add the running sum last, and "fast" does not
mind.)

Terms. With 16-bit inputs the basis is rounded to 16 bits as well; TERMS = 2 adds what the rounding lost as a second
basis, so that products are exact to 16 (bfloat16) or 22 (float16) bits. Both use the input as it is.

FOLD. Rows of even index of a DCT basis are symmetric, those of odd index antisymmetric: half as many products give
the same sums, of x_j + x_(n-1-j) for even rows and of their difference for odd ones. The basis then is two, of
half as many rows and columns: the even rows and, `parity` elements on, the odd ones.

MOMENTS. Where few coefficients of a long axis are kept, BLOCK neighbours along it are replaced by as many moments
(moments.py), in groups of four whose factors are GROUP0, GROUP1, GROUP2 bfloat16 numbers each. A step then is RUNS
runs; its basis, the rows' moments, lies together, `step` elements from one step to the next.
"""

from __future__ import annotations

import triton
import triton.language as tl

from . import moments

# NOTE: the interpreter (TRITON_INTERPRET=1) multiplies bfloat16 operands by their bits. There operands are widened
# first, which changes no product: those of 16-bit numbers are exact in float32.
WIDEN = tl.constexpr(triton.knobs.runtime.interpret)
RUNS = tl.constexpr(moments.RUNS)
GROUP = tl.constexpr(moments.GROUP)
_weight = triton.constexpr_function(moments.weight)


@triton.jit
def _matrix(x, z, matrices, inner, stride0, stride1, GROUPED: tl.constexpr, TYPE: tl.constexpr, ALIGNED: tl.constexpr):
    """Pointer to the first element of matrix z."""
    if GROUPED:
        pointer = tl.load(x + z // matrices).to(tl.pointer_type(TYPE))
        if ALIGNED:
            pointer = tl.multiple_of(pointer, 16)
        z = z % matrices
    else:
        pointer = x
    return pointer + (z // inner) * stride0 + (z % inner) * stride1


@triton.jit
def _dot(a, b, total, PRECISION: tl.constexpr):
    if WIDEN:
        a, b = a.to(total.dtype), b.to(total.dtype)
    return tl.dot(a, b, total, input_precision=PRECISION, out_dtype=total.dtype)


@triton.jit
def _product(basis, term, x, SUM: tl.constexpr, TERMS: tl.constexpr, PRECISION: tl.constexpr):
    """A tile of the basis times x, the small terms first."""
    high = tl.load(basis)
    if TERMS == 2:
        low = tl.load(basis + term)
        return _dot(high, x, _dot(low, x, tl.zeros((high.shape[0], x.shape[1]), SUM), PRECISION), PRECISION)
    else:  # noqa: RET505, a branch that is compiled or not
        return _dot(high, x, tl.zeros((high.shape[0], x.shape[1]), SUM), PRECISION)


@triton.jit
def _sums(
    x, x_j, x_l, n, first, end, l0, lanes, basis, basis_u, parity, term,
    FOLD: tl.constexpr, DOT: tl.constexpr, SUM: tl.constexpr, TERMS: tl.constexpr, PRECISION: tl.constexpr,
    BU: tl.constexpr, BJ: tl.constexpr, BL: tl.constexpr,
):  # fmt: skip
    """sum over j in [first, end) of basis[u, j] x[j, l], for BU rows and BL lanes: all rows, or even and odd ones."""
    j, u = first + tl.arange(0, BJ), tl.arange(0, BU)
    lane = l0 + tl.arange(0, BL)
    inside = (lane < lanes)[None, :]
    columns = x + lane.to(tl.int64)[None, :] * x_l
    tile = basis + u.to(tl.int64)[:, None] * basis_u + j[None, :]
    even = tl.zeros((BU, BL), SUM)
    odd = tl.zeros((BU, BL), SUM)
    for _ in range(first, end, BJ):
        a = tl.load(columns + j.to(tl.int64)[:, None] * x_j, mask=(j < end)[:, None] & inside, other=0)
        if FOLD:
            mirror = n - 1 - j
            # The middle of an odd length is its own mirror, and counts once.
            b = tl.load(columns + mirror.to(tl.int64)[:, None] * x_j, mask=((j < end) & (mirror > j))[:, None] & inside,
                        other=0)  # fmt: skip
            a, b = a.to(SUM), b.to(SUM)
            even += _product(tile, term, (a + b).to(DOT), SUM, TERMS, PRECISION)
            odd += _product(tile + parity, term, (a - b).to(DOT), SUM, TERMS, PRECISION)
        else:
            even += _product(tile, term, a.to(DOT), SUM, TERMS, PRECISION)
        j += BJ
        tile += BJ
    return even, odd


@triton.jit
def _part(x, j, n, inside, WHOLE: tl.constexpr):
    if WHOLE:  # noqa: SIM108, a branch that is compiled or not
        value = tl.load(x)
    else:
        value = tl.load(x, mask=(j < n)[:, None] & inside, other=0)
    return value.to(tl.float32)


@triton.jit
def _group(a, b, c, d, tile, term, total, NUMBERS: tl.constexpr):
    """Four moments, each [runs, lanes], times their basis: products of all their bfloat16 numbers, small ones first."""
    m = tl.permute(tl.join(tl.join(a, b), tl.join(c, d)), (3, 2, 0, 1))
    m = tl.reshape(m, (GROUP * a.shape[0], a.shape[1]))
    high = m.to(tl.bfloat16)
    basis = tl.load(tile)
    if NUMBERS > 1:
        rest = m - high.to(tl.float32)
        middle = rest.to(tl.bfloat16)
        basis_middle = tl.load(tile + term)
        if NUMBERS > 2:
            low = (rest - middle.to(tl.float32)).to(tl.bfloat16)
            basis_low = tl.load(tile + 2 * term)
            total = _dot(basis, low, total, "ieee")
            total = _dot(basis_low, high, total, "ieee")
            total = _dot(basis_middle, middle, total, "ieee")
        total = _dot(basis, middle, total, "ieee")
        total = _dot(basis_middle, high, total, "ieee")
    return _dot(basis, high, total, "ieee")


@triton.jit
def _moment_sums(
    x, x_j, x_l, n, first, end, l0, lanes, basis, step, term,
    BLOCK: tl.constexpr, MOMENTS: tl.constexpr, GROUP0: tl.constexpr, GROUP1: tl.constexpr, GROUP2: tl.constexpr,
    WHOLE: tl.constexpr, BU: tl.constexpr, BL: tl.constexpr,
):  # fmt: skip
    """As _sums, all rows: runs first to end of the axis, RUNS at a time."""
    q, u, lane = first + tl.arange(0, RUNS), tl.arange(0, BU), l0 + tl.arange(0, BL)
    inside = (lane < lanes)[None, :]
    # Of 64 bits, whatever x_j is.
    along = tl.full((), 1, tl.int64) * x_j
    at = x + q.to(tl.int64)[:, None] * (BLOCK * along) + lane.to(tl.int64)[None, :] * x_l
    j = q * BLOCK
    tile = (
        basis + (first // RUNS).to(tl.int64) * step + u[:, None] * (GROUP * RUNS) + tl.arange(0, GROUP * RUNS)[None, :]
    )
    total = tl.zeros((BU, BL), tl.float32)
    for _ in range(first, end, RUNS):
        m0 = tl.zeros((RUNS, BL), tl.float32)
        m1, m2, m3, m4, m5, m6, m7, m8, m9, m10, m11 = m0, m0, m0, m0, m0, m0, m0, m0, m0, m0, m0
        for r in tl.static_range(BLOCK // 2):
            # Polynomials of even degree are symmetric, the others antisymmetric.
            a = _part(at + r * along, j + r, n, inside, WHOLE)
            b = _part(at + (BLOCK - 1 - r) * along, j + (BLOCK - 1 - r), n, inside, WHOLE)
            even, odd = a + b, a - b
            m0 += _weight(BLOCK, 0, r) * even
            m1 += _weight(BLOCK, 1, r) * odd
            m2 += _weight(BLOCK, 2, r) * even
            m3 += _weight(BLOCK, 3, r) * odd
            if MOMENTS > 4:
                m4 += _weight(BLOCK, 4, r) * even
            if MOMENTS > 5:
                m5 += _weight(BLOCK, 5, r) * odd
            if MOMENTS > 6:
                m6 += _weight(BLOCK, 6, r) * even
            if MOMENTS > 7:
                m7 += _weight(BLOCK, 7, r) * odd
            if MOMENTS > 8:
                m8 += _weight(BLOCK, 8, r) * even
            if MOMENTS > 9:
                m9 += _weight(BLOCK, 9, r) * odd
            if MOMENTS > 10:
                m10 += _weight(BLOCK, 10, r) * even
            if MOMENTS > 11:
                m11 += _weight(BLOCK, 11, r) * odd
        part = tl.zeros((BU, BL), tl.float32)
        if GROUP2 > 0:
            part = _group(m8, m9, m10, m11, tile + (GROUP0 + GROUP1) * term, term, part, GROUP2)
        if GROUP1 > 0:
            part = _group(m4, m5, m6, m7, tile + GROUP0 * term, term, part, GROUP1)
        total += _group(m0, m1, m2, m3, tile, term, part, GROUP0)
        at += RUNS * BLOCK * along
        j += RUNS * BLOCK
        tile += step
    return total


@triton.jit
def _store(out, value, u, l, rows, lanes, out_u, out_l):  # noqa: E741
    at = out + u.to(tl.int64)[:, None] * out_u + l.to(tl.int64)[None, :] * out_l
    tl.store(at, value.to(out.dtype.element_ty), mask=(u < rows)[:, None] & (l < lanes)[None, :])


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
    even, odd = _sums(x, x_j, x_l, n, first, end, l0, lanes, basis + u0.to(tl.int64) * basis_u, basis_u, parity, term,
                      FOLD, DOT, SUM, TERMS, PRECISION, BU, BJ, BL)  # fmt: skip
    u, l = u0 + tl.arange(0, BU), l0 + tl.arange(0, BL)  # noqa: E741
    if FOLD:
        _store(out, even * scale, 2 * u, l, rows, lanes, out_u, out_l)
        _store(out, odd * scale, 2 * u + 1, l, rows, lanes, out_u, out_l)
    else:
        _store(out, even * scale, u, l, rows, lanes, out_u, out_l)


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
def _crop_lanes(
    sums, at, u, l, lane_basis, lane_basis_v,  # noqa: E741
    KV: tl.constexpr, BU: tl.constexpr, BV: tl.constexpr, LANE_PRECISION: tl.constexpr,
):  # fmt: skip
    """The sums times the lanes' basis, into rows u of a matrix of KV columns."""
    # A few columns at a time: all would not fit the registers beside the sums.
    for v0 in range(0, KV, BV):
        v = v0 + tl.arange(0, BV)[None, :]
        lane_tile = tl.load(lane_basis + l[:, None] + v.to(tl.int64) * lane_basis_v)
        tl.store(at + u * KV + v, _dot(sums, lane_tile, tl.zeros((BU, BV), sums.dtype), LANE_PRECISION))


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
    even, odd = _sums(x, x_j, x_l, n, first, end, l0, lanes, basis, basis_u, parity, term,
                      FOLD, DOT, SUM, TERMS, PRECISION, BU, BJ, BL)  # fmt: skip
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
