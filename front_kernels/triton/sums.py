"""Device code that kernels share: how sums over an axis are made, and what becomes of them. Names as in kernels.py.

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
def _measured(value, shift, mask, total, square):
    """x - shift, and the sums so far of that and of its square."""
    d = tl.where(mask, value - shift, 0.0)
    return d, total + tl.sum(d, 0), square + tl.sum(d * d, 0)


@triton.jit
def _sums(
    x, x_j, x_l, n, first, end, l0, lanes, basis, basis_u, parity, term, shift,
    FOLD: tl.constexpr, MEASURE: tl.constexpr, DOT: tl.constexpr, SUM: tl.constexpr, TERMS: tl.constexpr,
    PRECISION: tl.constexpr, BU: tl.constexpr, BJ: tl.constexpr, BL: tl.constexpr,
):  # fmt: skip
    """sum over j in [first, end) of basis[u, j] x[j, l], for BU rows and BL lanes: all rows, or even and odd ones.

    With MEASURE it is x - shift, but for 16-bit numbers, which are multiplied as they are; and every lane's sums of
    x - shift and of its square.
    """
    j, u = first + tl.arange(0, BJ), tl.arange(0, BU)
    lane = l0 + tl.arange(0, BL)
    inside = (lane < lanes)[None, :]
    columns = x + lane.to(tl.int64)[None, :] * x_l
    tile = basis + u.to(tl.int64)[:, None] * basis_u + j[None, :]
    even = tl.zeros((BU, BL), SUM)
    odd = tl.zeros((BU, BL), SUM)
    total = tl.zeros((BL,), SUM)
    square = tl.zeros((BL,), SUM)
    for _ in range(first, end, BJ):
        here = (j < end)[:, None] & inside
        a = tl.load(columns + j.to(tl.int64)[:, None] * x_j, mask=here, other=0)
        if MEASURE:
            d, total, square = _measured(a.to(SUM), shift, here, total, square)
            if a.dtype == SUM:
                a = d
        if FOLD:
            mirror = n - 1 - j
            # The middle of an odd length is its own mirror, and counts once.
            there = ((j < end) & (mirror > j))[:, None] & inside
            b = tl.load(columns + mirror.to(tl.int64)[:, None] * x_j, mask=there, other=0)
            if MEASURE:
                d, total, square = _measured(b.to(SUM), shift, there, total, square)
                if b.dtype == SUM:
                    b = d
            a, b = a.to(SUM), b.to(SUM)
            even += _product(tile, term, (a + b).to(DOT), SUM, TERMS, PRECISION)
            odd += _product(tile + parity, term, (a - b).to(DOT), SUM, TERMS, PRECISION)
        else:
            even += _product(tile, term, a.to(DOT), SUM, TERMS, PRECISION)
        j += BJ
        tile += BJ
    return even, odd, total, square


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
def _store_rows(out, even, odd, u, l, rows, lanes, out_u, out_l, FOLD: tl.constexpr):  # noqa: E741
    """What _sums has made of rows u, of each parity with FOLD."""
    if FOLD:
        _store(out, even, 2 * u, l, rows, lanes, out_u, out_l)
        _store(out, odd, 2 * u + 1, l, rows, lanes, out_u, out_l)
    else:
        _store(out, even, u, l, rows, lanes, out_u, out_l)


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
