"""Every op on CUDA tensors against float64: lengths, dtypes, norms, layouts, lists, in-place and out= forms.

An engine may compile for every length of an axis and every share that is kept of it, so there are few of both here, in
many combinations: an eighth, a quarter, half and all of a length. No test minds others beside it (pytest -n).
"""

from __future__ import annotations

import math

import pytest
import torch
from on_gpu import (
    DTYPES,
    GPU,
    SENTINEL,
    assert_matches,
    basis_block,
    by_blocks,
    cuda_engine,  # noqa: F401
    exact,
    randn,
    why_skipped,
)

import front_kernels as fk
from compare import relative_error

if reason := why_skipped():
    pytest.skip(reason, allow_module_level=True)

REF = fk.reference
NORMS = ("ortho", "backward", "forward", "adjoint:backward", "adjoint:forward")
# (shape, kept): single elements, rows and columns, smooth, odd and prime lengths, k = 1 and k = n, tails, batches
MATRICES = [
    ((1, 1), (1, 1)),
    ((1, 33), (1, 8)),
    ((33, 1), (8, 1)),
    ((48, 33), (48, 33)),
    ((131, 33), (40, 33)),
    ((2, 3, 33, 48), (8, 11)),
    ((257, 33, 48), (8, 12)),
    ((33, 48), (1, 1)),
    ((96, 96), (40, 7)),
    ((96, 1024), (24, 512)),
    ((1024, 48), (300, 48)),
    ((1733, 33), (800, 8)),
]
DOUBLE = MATRICES[:7]  # in float64, whose kernels are compiled apart
BIG = [((768, 3072), (384, 1536)), ((4096, 4096), (512, 512)), ((11008, 4096), (2752, 1024))]
# Of many lanes, through memory in one launch: by two steps and by a convolution, even and odd.
THROUGH = [(65536, torch.float32), (65536, torch.float64), (59049, torch.float32), (50257, torch.float32)]
# Of models' weights; the last three have radices that are not the fastest, which want more registers than there are.
REAL = (11008, 13824, 14336, 18944, 28672, 30522, 50257, 128256, 151936, 13125, 19683, 32500)


def test_blocks_of_the_basis_are_the_basis():
    x = randn(2, 33, dtype=torch.float64)
    assert torch.allclose(basis_block(33, 0, 33), exact(REF.basis, 33), rtol=0, atol=1e-15)
    assert torch.allclose(by_blocks(x, 33, 20, inverse=False), exact(REF.dct, x, 20), rtol=0, atol=1e-13)
    assert torch.allclose(by_blocks(x, 48, 33, inverse=True), exact(REF.idct, x, 48), rtol=0, atol=1e-13)


@pytest.mark.parametrize(
    ("shape", "k", "dtype"),
    [(*case, d) for case in MATRICES for d in DTYPES if d != torch.float64 or case in DOUBLE],
    ids=str,
)
def test_matrices(shape, k, dtype):
    x, size = randn(*shape, dtype=dtype), shape[-2:]
    assert_matches(fk.dct2(x), exact(REF.dct2, x), dtype=dtype)
    assert_matches(fk.idct2(x), exact(REF.idct2, x), dtype=dtype)
    assert_matches(fk.dct_crop(x, k), exact(REF.dct_crop, x, k), dtype=dtype)
    corner = x[..., : k[0], : k[1]].contiguous()
    assert_matches(fk.idct_pad(corner, size), exact(REF.idct_pad, corner, size), dtype=dtype)


RESIZED = [
    ((48, 33), (33, 48), None),
    ((3, 33, 48), (96, 33), (8, 8)),
    ((131, 33), (48, 33), (12, 33)),
    ((48, 33), (131, 33), None),
    ((96, 1024), (48, 96), None),
    ((1024, 48), (1024, 33), (300, 12)),
    ((27648, 2), (27648, 2), (3456, 2)),  # a column that only the last resort fits
]


@pytest.mark.parametrize(
    ("shape", "size", "k", "dtype"),
    [(*case, d) for case in RESIZED for d in DTYPES if d != torch.float64 or max(case[0]) < 1024],
    ids=str,
)
def test_dct_resize_and_lowpass(shape, size, k, dtype):
    x = randn(*shape, dtype=dtype)
    assert_matches(fk.dct_resize(x, size, k=k), exact(REF.dct_resize, x, size, k=k), dtype=dtype)
    if k is not None:
        assert_matches(fk.lowpass(x, k), exact(REF.lowpass, x, k), dtype=dtype)


@pytest.mark.parametrize(("shape", "k"), BIG, ids=str)
def test_big_matrices(shape, k):
    x = randn(*shape)
    y = fk.dct_crop(x, k)
    assert_matches(y, exact(REF.dct_crop, x, k), dtype=torch.float32)
    assert_matches(fk.idct_pad(y, shape), exact(REF.idct_pad, y, shape), dtype=torch.float32)
    assert_matches(fk.dct_crop(x.bfloat16(), k), exact(REF.dct_crop, x.bfloat16(), k), dtype=torch.bfloat16)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_norms(dtype, norm):
    x, c = randn(48, 33, dtype=dtype), {"norm": norm}
    assert_matches(fk.dct2(x, **c), exact(REF.dct2, x, **c), dtype=dtype)
    assert_matches(fk.dct_crop(x, (8, 8), **c), exact(REF.dct_crop, x, (8, 8), **c), dtype=dtype)
    assert_matches(fk.idct_pad(x, (96, 48), **c), exact(REF.idct_pad, x, (96, 48), **c), dtype=dtype)
    assert_matches(fk.dct_resize(x, (33, 48), **c), exact(REF.dct_resize, x, (33, 48), **c), dtype=dtype)
    for dim in (0, 1):
        assert_matches(fk.dct(x, 8, dim, **c), exact(REF.dct, x, 8, dim, **c), dtype=dtype)
        assert_matches(fk.idct(x, 96, dim, **c), exact(REF.idct, x, 96, dim, **c), dtype=dtype)


@pytest.mark.parametrize("dim", [0, 1, 2, 3, -1, -2, -3, -4])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_one_axis_in_any_place(dim, dtype):
    x = randn(33, 48, 33, 48, dtype=dtype)
    assert_matches(fk.dct(x, 8, dim), exact(REF.dct, x, 8, dim), dtype=dtype)
    assert_matches(fk.idct(x, 96, dim), exact(REF.idct, x, 96, dim), dtype=dtype)


@pytest.mark.parametrize("rows", [3, 33])
@pytest.mark.parametrize("n", REAL)
def test_lengths_of_real_weights(n, rows):
    x, k = randn(rows, n), n // 4
    whole = rows == 3 and n > 30_000
    spectrum = by_blocks(x, n, n if whole else k, inverse=False)
    kept = spectrum[:, :k]
    y = kept.float()
    back, scale = by_blocks(y, n, k, inverse=True), math.sqrt(k / n)
    lane = {"dtype": torch.float32, "lanes": True}
    assert_matches(fk.dct(x, k), kept, rms=1.0, **lane)
    assert_matches(fk.dct(x.mT, k, 0).mT, kept, rms=1.0, **lane)
    assert_matches(fk.dct(x.mT.contiguous(), k, 0).mT, kept, rms=1.0, **lane)
    assert_matches(fk.idct(y, n), back, rms=scale, **lane)
    assert_matches(fk.idct(y.mT.contiguous(), n, 0).mT, back, rms=scale, **lane)
    if whole:
        assert_matches(fk.dct(x), spectrum, rms=1.0, **lane)
    if rows == 3:
        return
    both = exact(REF.dct, kept, None, 0)
    assert_matches(fk.dct_crop(x, (rows, k)), both, dtype=torch.float32)
    assert_matches(fk.dct_crop(x.mT.contiguous(), (k, rows)).mT, both, dtype=torch.float32)


@pytest.mark.parametrize(("n", "dtype"), THROUGH, ids=str)
def test_many_lanes_through_memory(n, dtype):
    x = randn(1100, n, dtype=dtype)
    kept, some = n // 16, torch.tensor([0, 1, 131, 132, 133, 1024, 1098, 1099], device=GPU)
    expected = by_blocks(x[some], n, kept, inverse=False)
    assert_matches(fk.dct(x, kept)[some], expected, dtype=dtype, lanes=True)
    y = x[:, :kept].contiguous()
    back = by_blocks(y[some], n, kept, inverse=True)
    assert_matches(fk.idct(y, n)[some], back, dtype=dtype, lanes=True)


def view(layout: str, dtype: torch.dtype) -> torch.Tensor:
    """3 x 48 x 33 elements by other strides; what lies between them is NaN."""
    if layout == "expanded rows":
        return randn(33, dtype=dtype).expand(3, 48, 33)
    if layout == "expanded batch":
        return randn(48, 33, dtype=dtype).expand(3, 48, 33)
    found = {
        "every second": lambda nan: nan(6, 96, 66)[1::2, ::2, 1::2],
        "offset": lambda nan: nan(3, 48, 40)[..., 3:36],
        "transposed": lambda nan: nan(3, 34, 50)[:, 1:, 2:].mT,
        "batch last": lambda nan: nan(48, 33, 3).movedim(-1, 0),
    }[layout](lambda *shape: torch.full(shape, math.nan, dtype=dtype, device=GPU))
    return found.copy_(randn(3, 48, 33, dtype=dtype))


LAYOUTS = ("every second", "offset", "transposed", "batch last", "expanded rows", "expanded batch")


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_any_layout_of_the_input(dtype, layout):
    x = view(layout, dtype)
    assert x.shape == (3, 48, 33)
    # A spectrum of equal rows is zero but for one row: judged by what random rows would have.
    rms = 1.0 if layout == "expanded rows" else 0.0
    assert_matches(fk.dct2(x), exact(REF.dct2, x), dtype=dtype)
    assert_matches(fk.dct_crop(x, (8, 8)), exact(REF.dct_crop, x, (8, 8)), dtype=dtype)
    assert_matches(fk.idct_pad(x, (96, 48)), exact(REF.idct_pad, x, (96, 48)), dtype=dtype)
    assert_matches(fk.lowpass(x, (8, 8)), exact(REF.lowpass, x, (8, 8)), dtype=dtype)
    assert_matches(fk.dct_resize(x, (33, 48)), exact(REF.dct_resize, x, (33, 48)), dtype=dtype)
    for dim in (-1, -2):
        assert_matches(fk.dct(x, 8, dim), exact(REF.dct, x, 8, dim), dtype=dtype, rms=rms)
        assert_matches(fk.idct(x, 96, dim), exact(REF.idct, x, 96, dim), dtype=dtype)


def test_negated_view():
    row = randn(48)
    negative = torch.complex(row, row).conj().imag
    assert negative.is_neg()
    assert_matches(fk.dct(negative), exact(REF.dct, -row), dtype=torch.float32)


@pytest.mark.parametrize("out_dtype", DTYPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_out_dtype(dtype, out_dtype):
    x = randn(48, 33, dtype=dtype)
    tolerance = 2e-14 if out_dtype == torch.float64 else None
    for got, expected in (
        (fk.dct_crop(x, (12, 8), out_dtype=out_dtype), exact(REF.dct_crop, x, (12, 8))),
        (fk.idct_pad(x, (96, 48), out_dtype=out_dtype), exact(REF.idct_pad, x, (96, 48))),
        (fk.dct_resize(x, (33, 48), out_dtype=out_dtype), exact(REF.dct_resize, x, (33, 48))),
        (fk.dct(x, 8, 0, out_dtype=out_dtype), exact(REF.dct, x, 8, 0)),
    ):
        assert_matches(got, expected, dtype=out_dtype, tolerance=tolerance)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_conversions_are_exact(dtype):
    """A DCT of length 1 is the identity: all 65536 values, and ties between them."""
    every = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype).to(GPU)
    got = fk.dct(every[:, None], out_dtype=torch.float32)[:, 0]
    torch.testing.assert_close(got, every.float(), rtol=0, atol=0, equal_nan=True)
    finite = every[every.isfinite()].float().sort().values
    middle = (finite[1:] + finite[:-1]) / 2
    got = fk.dct(middle[:, None], out_dtype=dtype)[:, 0]
    torch.testing.assert_close(got + 0.0, middle.to(dtype) + 0.0, rtol=0, atol=0)


@pytest.mark.parametrize("n", [33, 48, 131, 1024])
def test_nan_reaches_its_lane_and_no_other(n):
    x = randn(6, n)
    clean = fk.dct(x)
    x[2, n // 3] = math.nan
    y = fk.dct(x)
    others = [0, 1, 3, 4, 5]
    assert y[2].isnan().all()
    assert torch.equal(y[others], clean[others])
    assert fk.idct(x)[2].isnan().all()


def test_empty_batches_and_lists():
    x = torch.empty(0, 48, 33, device=GPU)
    for result, shape in (
        (fk.dct2(x), (0, 48, 33)),
        (fk.dct_crop(x, (8, 8)), (0, 8, 8)),
        (fk.idct_pad(x, (96, 48)), (0, 96, 48)),
        (fk.lowpass(x, 8), (0, 48, 33)),
        (fk.dct(x, 8, 1), (0, 8, 33)),
        (fk.dct_crop_many([x, x], 8)[1], (0, 8, 8)),
    ):
        assert (result.shape, result.device) == (shape, x.device)
    assert fk.dct_crop_many([], 4) == []
    assert fk.dct2_(x) is x


@pytest.mark.parametrize("count", [1, 7, 150])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_lists(dtype, count):
    xs = [randn(33, 48, dtype=dtype) for _ in range(count)]
    xs[-1] = xs[-1].mT.contiguous().mT
    for x, low in zip(xs, fk.dct_crop_many(xs, (8, 8), norm="backward"), strict=True):
        assert_matches(low, exact(REF.dct_crop, x, (8, 8), norm="backward"), dtype=dtype)
    for x, wide in zip(xs, fk.idct_pad_many(xs, (48, 96), out_dtype=torch.float32), strict=True):
        assert_matches(wide, exact(REF.idct_pad, x, (48, 96)), dtype=torch.float32)


# name: in-place form, plain op, definition
IN_PLACE = {
    "dct2_": (fk.dct2_, fk.dct2, REF.dct2),
    "idct2_": (fk.idct2_, fk.idct2, REF.idct2),
    "dct_crop_": tuple(lambda x, f=f: f(x, (8, 8)) for f in (fk.dct_crop_, fk.dct_crop, REF.dct_crop)),
    "idct_pad_": (
        lambda x: fk.idct_pad_(x, (8, 8)),
        *(lambda x, f=f: f(x[..., :8, :8], tuple(x.shape[-2:])) for f in (fk.idct_pad, REF.idct_pad)),
    ),
    "lowpass_": tuple(lambda x, f=f: f(x, (8, 8)) for f in (fk.lowpass_, fk.lowpass, REF.lowpass)),
}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", IN_PLACE)
def test_in_place(name, dtype):
    in_place, plain, definition = IN_PLACE[name]
    for shape in ((48, 33), (3, 33, 48), (70, 33, 48)):
        x = randn(*shape, dtype=dtype)
        expected = plain(x)
        got = in_place(x)
        assert got.data_ptr() == x.data_ptr()
        assert torch.equal(got, expected)
    whole = torch.full((60, 80), SENTINEL, dtype=dtype, device=GPU)
    inside = whole[3:51, 5:71:2]
    inside.copy_(randn(48, 33, dtype=dtype))
    expected = exact(definition, inside)
    assert_matches(in_place(inside), expected, dtype=dtype)
    inside.fill_(SENTINEL)
    assert (whole == SENTINEL).all()


# name: op, definition, shape of the result
OUT = {
    "dct2": (fk.dct2, lambda x: REF.dct2(x), (48, 33)),
    "idct2": (fk.idct2, lambda x: REF.idct2(x), (48, 33)),
    "dct_crop": (lambda x, **kw: fk.dct_crop(x, (8, 8), **kw), lambda x: REF.dct_crop(x, (8, 8)), (8, 8)),
    "idct_pad": (lambda x, **kw: fk.idct_pad(x, (96, 48), **kw), lambda x: REF.idct_pad(x, (96, 48)), (96, 48)),
    "dct_resize": (
        lambda x, **kw: fk.dct_resize(x, (33, 48), k=(8, 8), **kw),
        lambda x: REF.dct_resize(x, (33, 48), k=(8, 8)),
        (33, 48),
    ),
}


@pytest.mark.parametrize("layout", ["rows", "every second", "transposed"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", OUT)
def test_out_between_sentinels(name, dtype, layout):
    function, definition, (m, n) = OUT[name]
    x = randn(2, 48, 33)
    if layout == "transposed":
        whole = torch.full((4, n + 3, m + 4), SENTINEL, dtype=dtype, device=GPU)
        out = whole[1:3, 1 : 1 + n, 2 : 2 + m].mT
    else:
        step = 2 if layout == "every second" else 1
        whole = torch.full((5, m * step + 5, n * step + 6), SENTINEL, dtype=dtype, device=GPU)
        out = whole[2:4, 2 : 2 + m * step : step, 3 : 3 + n * step : step]
    assert function(x, out=out) is out
    assert_matches(out, exact(definition, x), dtype=dtype, tolerance=2e-14 if dtype == torch.float64 else None)
    if layout == "rows":
        assert torch.equal(out, function(x, out_dtype=dtype))
    out.fill_(SENTINEL)
    assert (whole == SENTINEL).all()


def test_out_over_the_input():
    x = randn(3, 48, 33)
    expected, corner = fk.dct2(x), fk.dct_crop(x, (8, 8))
    small = x.clone()
    fk.dct_crop(small, (8, 8), out=small[:, :8, :8])
    assert torch.equal(small[:, :8, :8], corner)
    assert torch.equal(fk.dct2(x, out=x), expected)
    base = torch.zeros(4, 48, 33, device=GPU)
    base[:3] = x
    expected = fk.dct2(base[:3])
    fk.dct2(base[:3], out=base[1:])  # each result lies where the next matrix was
    assert torch.equal(base[1:], expected)


def test_errors_are_the_cpus():
    x = randn(48, 33)
    for call in (
        lambda x: fk.dct_crop(x, (49, 3)),
        lambda x: fk.idct_pad(x, 8),
        lambda x: fk.dct2(x.int()),
        lambda x: fk.dct(x, 3, 2),
        lambda x: fk.dct2(x, norm="l2"),
        lambda x: fk.dct2(x, out=torch.empty(3, 3, device=x.device)),
        lambda x: fk.dct2_(x[:1].expand(48, 33)),
        lambda x: fk.dct_crop_many([x, x[:5]], 2),
    ):
        with pytest.raises(ValueError, match="front::") as on_cpu:
            call(x.cpu())
        with pytest.raises(ValueError, match="front::") as on_gpu:
            call(x)
        assert str(on_gpu.value) == str(on_cpu.value)


@pytest.mark.parametrize("mixed", [lambda x: fk.dct2(x, out=x.cpu()), lambda x: fk.dct_crop_many([x, x.cpu()], 2)])
def test_tensors_of_two_devices_are_refused(mixed):
    with pytest.raises((ValueError, RuntimeError)):
        mixed(randn(48, 33))
    assert relative_error(fk.dct2(randn(48, 33)), torch.zeros(48, 33, device=GPU)) > 0  # the device still works
