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
"""

from __future__ import annotations

import triton
import triton.language as tl

# NOTE: the interpreter (TRITON_INTERPRET=1) multiplies bfloat16 operands by their bits. There operands are widened
# first, which changes no product: those of 16-bit numbers are exact in float32.
WIDEN = tl.constexpr(triton.knobs.runtime.interpret)


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
def _store(out, value, u, l, rows, lanes, out_u, out_l):  # noqa: E741
    at = out + u.to(tl.int64)[:, None] * out_u + l.to(tl.int64)[None, :] * out_l
    tl.store(at, value.to(out.dtype.element_ty), mask=(u < rows)[:, None] & (l < lanes)[None, :])


@triton.jit
def axis(
    x, out, basis, n, terms, rows, lanes, x_j, x_l, x_0, x_1, out_u, out_l, out_0, out_1, inner, matrices,
    basis_u, parity, term, scale,
    X_TYPE: tl.constexpr, OUT_TYPE: tl.constexpr, X_GROUPED: tl.constexpr, OUT_GROUPED: tl.constexpr,
    ALIGNED: tl.constexpr, FOLD: tl.constexpr,
    DOT: tl.constexpr, SUM: tl.constexpr, TERMS: tl.constexpr, PRECISION: tl.constexpr,
    BU: tl.constexpr, BJ: tl.constexpr, BL: tl.constexpr,
):  # fmt: skip
    """out[u, l] = scale sum_j basis[u, j] x[j, l], j < terms: one axis of every matrix, forward or inverse.

    A program makes BU rows (with FOLD, of each parity) and BL lanes. Programs that read the same part of x are
    neighbours, so that it comes from the second-level cache for all but one.
    """
    half = (rows + 1) // 2 if FOLD else rows
    tiles_u, tiles_l = tl.cdiv(half, BU), tl.cdiv(lanes, BL)
    program = tl.program_id(0)
    u0 = program % tiles_u * BU
    l0 = program // tiles_u % tiles_l * BL
    z = (program // tiles_u // tiles_l).to(tl.int64)
    x = _matrix(x, z, matrices, inner, x_0, x_1, X_GROUPED, X_TYPE, ALIGNED)
    out = _matrix(out, z, matrices, inner, out_0, out_1, OUT_GROUPED, OUT_TYPE, ALIGNED)
    end = (terms + 1) // 2 if FOLD else terms
    even, odd = _sums(x, x_j, x_l, n, 0, end, l0, lanes, basis + u0.to(tl.int64) * basis_u, basis_u, parity, term,
                      FOLD, DOT, SUM, TERMS, PRECISION, BU, BJ, BL)  # fmt: skip
    u, l = u0 + tl.arange(0, BU), l0 + tl.arange(0, BL)  # noqa: E741
    if FOLD:
        _store(out, even * scale, 2 * u, l, rows, lanes, out_u, out_l)
        _store(out, odd * scale, 2 * u + 1, l, rows, lanes, out_u, out_l)
    else:
        _store(out, even * scale, u, l, rows, lanes, out_u, out_l)


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
    # Lanes past the end of x are zero in `even` and `odd`, and in their basis. A few columns at a time: all would not
    # fit the registers beside the sums.
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


@triton.jit
def add(
    partials, out, parts, ku, kv, out_u, out_v, out_0, out_1, inner, matrices, scale,
    OUT_TYPE: tl.constexpr, OUT_GROUPED: tl.constexpr, ALIGNED: tl.constexpr, SUM: tl.constexpr,
    K: tl.constexpr, KV: tl.constexpr, B: tl.constexpr, BP: tl.constexpr,
):  # fmt: skip
    """out[z, u, v] = scale sum over p of partials[z, p, u, v], always in the same order."""
    tiles = K * KV // B
    program = tl.program_id(0)
    z = (program // tiles).to(tl.int64)
    at = program % tiles * B + tl.arange(0, B)
    part = tl.arange(0, BP)
    from_ = partials + z * parts * (K * KV) + part.to(tl.int64)[:, None] * (K * KV) + at[None, :]
    total = tl.zeros((BP, B), SUM)
    for p in range(0, parts, BP):
        total += tl.load(from_, mask=(part + p < parts)[:, None], other=0)
        from_ += BP * K * KV
    value = tl.sum(total, 0) * scale
    out = _matrix(out, z, matrices, inner, out_0, out_1, OUT_GROUPED, OUT_TYPE, ALIGNED)
    u, v = at // KV, at % KV
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
