"""Every op, dtype and norm against scipy.fft in float64."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.fft
import torch

import front_kernels as fk
from compare import ROUNDOFF, assert_matches

DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
NORMS = ("ortho", "backward", "forward")
# (shape, kept corner): 1 x 1, one row, one column, odd, prime, k = 1, k = n, long and short, batches, an empty batch
MATRICES = [
    ((1, 1), (1, 1)),
    ((1, 7), (1, 3)),
    ((7, 1), (4, 1)),
    ((5, 8), (5, 8)),
    ((8, 5), (1, 1)),
    ((16, 16), (8, 16)),
    ((9, 35), (9, 7)),
    ((101, 12), (50, 5)),
    ((13, 1733), (6, 1000)),
    ((60, 49), (30, 24)),
    ((127, 128), (32, 100)),
    ((2, 3, 20, 33), (10, 11)),
    ((70, 3, 3), (2, 2)),
    ((0, 4, 6), (2, 3)),
]
LENGTHS = [*range(1, 40), 49, 61, 64, 67, 96, 101, 128, 131, 200, 243, 384, 625, 1000, 1024, 1733, 2401, 3466, 5087]


def matrix(shape: tuple[int, ...], dtype: torch.dtype, layout: str = "contiguous") -> torch.Tensor:
    """A random tensor; the other layouts are views into a larger one full of NaN, with strides of their own."""
    values = torch.randn(shape, dtype=torch.float64).to(dtype)
    if layout == "contiguous":
        return values
    if layout == "sliced":
        big = torch.full([n * 2 + 3 for n in shape], math.nan, dtype=dtype)
        view = big[tuple(slice(2, 2 + 2 * n, 2) for n in shape)]
    elif layout == "offset":  # rows contiguous, but unaligned and far apart
        big = torch.full([*shape[:-1], shape[-1] + 5], math.nan, dtype=dtype)
        view = big[..., 3 : 3 + shape[-1]]
    else:
        assert layout == "transposed"
        big = torch.full([*shape[:-2], shape[-1] + 1, shape[-2] + 2], math.nan, dtype=dtype)
        view = big[..., 1:, 2:].transpose(-1, -2)
    view.copy_(values)
    return view


def dctn(x: torch.Tensor, norm: str, axes: tuple[int, ...] = (-2, -1)) -> torch.Tensor:
    return torch.from_numpy(np.asarray(scipy.fft.dctn(x.double().numpy(), norm=norm, axes=axes)))


def idctn(x: torch.Tensor, size: tuple[int, ...], norm: str, axes: tuple[int, ...] = (-2, -1)) -> torch.Tensor:
    padded = np.zeros((*x.shape[: -len(size)], *size))
    padded[(..., *(slice(n) for n in x.shape[-len(size) :]))] = x.double().numpy()
    return torch.from_numpy(np.asarray(scipy.fft.idctn(padded, norm=norm, axes=axes)))


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("shape", "k"), MATRICES, ids=str)
class TestMatrices:
    def test_dct2(self, shape, k, dtype, norm):
        x = matrix(shape, dtype)
        if x.numel() == 0:
            assert fk.dct2(x, norm=norm).shape == shape
            return
        assert_matches(fk.dct2(x, norm=norm), dctn(x, norm), dtype=dtype)

    def test_idct2(self, shape, k, dtype, norm):
        x = matrix(shape, dtype)
        if x.numel() == 0:
            assert fk.idct2(x, norm=norm).shape == shape
            return
        assert_matches(fk.idct2(x, norm=norm), idctn(x, shape[-2:], norm), dtype=dtype)

    def test_dct_crop(self, shape, k, dtype, norm):
        x = matrix(shape, dtype)
        y = fk.dct_crop(x, k, norm=norm)
        if x.numel() == 0:
            assert y.shape == (*shape[:-2], *k)
            return
        assert_matches(y, dctn(x, norm)[..., : k[0], : k[1]], dtype=dtype)

    def test_idct_pad(self, shape, k, dtype, norm):
        x = matrix((*shape[:-2], *k), dtype)
        y = fk.idct_pad(x, shape[-2:], norm=norm)
        if x.numel() == 0:
            assert y.shape == shape
            return
        assert_matches(y, idctn(x, shape[-2:], norm), dtype=dtype)

    def test_dct_resize(self, shape, k, dtype, norm):
        x = matrix(shape, dtype)
        for size in (k, (shape[-2] + 5, shape[-1] + 2), (shape[-2] + 3, k[1])):
            y = fk.dct_resize(x, size, norm=norm)
            if x.numel() == 0:
                assert y.shape == (*shape[:-2], *size)
                continue
            kept = (min(shape[-2], size[0]), min(shape[-1], size[1]))
            assert_matches(y, idctn(dctn(x, norm)[..., : kept[0], : kept[1]], size, norm), dtype=dtype)

    def test_dct_resize_to_fewer_coefficients(self, shape, k, dtype, norm):
        x = matrix(shape, dtype)
        y = fk.dct_resize(x, shape[-2:], k=k, norm=norm)
        if x.numel() == 0:
            assert y.shape == shape
            return
        assert_matches(y, idctn(dctn(x, norm)[..., : k[0], : k[1]], shape[-2:], norm), dtype=dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("shape", "k"), MATRICES, ids=str)
def test_lowpass(shape, k, dtype):
    x = matrix(shape, dtype)
    y = fk.lowpass(x, k)
    assert y.shape == shape
    if x.numel():
        assert_matches(y, idctn(dctn(x, "ortho")[..., : k[0], : k[1]], shape[-2:], "ortho"), dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("n", LENGTHS)
def test_every_length_on_one_axis(n, dtype):
    x = matrix((3, n), dtype)
    for k in {1, (n + 1) // 2, max(1, n // 5), n}:
        y = fk.dct(x, k)
        assert_matches(y, dctn(x, "ortho", (-1,))[:, :k], dtype=dtype, lanes=True, rms=1.0)
        assert_matches(fk.idct(y, n), idctn(y, (n,), "ortho", (-1,)), dtype=dtype, lanes=True, rms=(k / n) ** 0.5)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("dim", [0, 1, 2, -1, -2, -3])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_one_axis_in_any_place(dim, dtype, norm):
    x = matrix((18, 20, 35), dtype)
    n = x.shape[dim]
    assert_matches(fk.dct(x, 9, dim, norm=norm), dctn(x, norm, (dim,)).narrow(dim, 0, 9), dtype=dtype)
    expected = idctn(x.movedim(dim, -1), (n + 7,), norm, (-1,)).movedim(-1, dim)
    assert_matches(fk.idct(x, n + 7, dim, norm=norm), expected, dtype=dtype)


@pytest.mark.parametrize("layout", ["sliced", "offset", "transposed"])
@pytest.mark.parametrize("shape", [(37, 50), (2, 3, 33, 40), (5, 16, 16)], ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("norm", NORMS)
def test_any_layout_of_the_input(shape, dtype, layout, norm):
    x = matrix(shape, dtype, layout)
    assert not x.is_contiguous()
    full, m, n = dctn(x, norm), *shape[-2:]
    for got, expected in (
        (fk.dct2(x, norm=norm), full),
        (fk.idct2(x, norm=norm), idctn(x, (m, n), norm)),
        (fk.dct_crop(x, (7, 9), norm=norm), full[..., :7, :9]),
        (fk.idct_pad(x, (50, 61), norm=norm), idctn(x, (50, 61), norm)),
        (fk.dct_resize(x, (20, 61), norm=norm), idctn(full[..., : min(m, 20), :], (20, 61), norm)),
        (fk.lowpass(x, (7, 9)), idctn(dctn(x, "ortho")[..., :7, :9], (m, n), "ortho")),
    ):
        assert_matches(got, expected, dtype=dtype)
    for dim in range(-len(shape), 0):
        assert_matches(fk.dct(x, 2, dim, norm=norm), dctn(x, norm, (dim,)).narrow(dim, 0, 2), dtype=dtype)
        longer = idctn(x.movedim(dim, -1), (70,), norm, (-1,)).movedim(-1, dim)
        assert_matches(fk.idct(x, 70, dim, norm=norm), longer, dtype=dtype)


def test_expanded_and_negated_views():
    row = torch.randn(40, dtype=torch.float64)
    x = row.expand(24, 40)
    assert_matches(fk.dct2(x), dctn(x.contiguous(), "ortho"), dtype=torch.float64)
    negative = torch.complex(row, row).conj().imag
    assert negative.is_neg()
    assert_matches(fk.dct(negative), dctn(-row, "ortho", (-1,)), dtype=torch.float64)


@pytest.mark.parametrize("out_dtype", DTYPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_out_dtype(dtype, out_dtype):
    x = matrix((33, 48), dtype)
    tolerance = 2e-14 if out_dtype == torch.float64 or (dtype == torch.float64 and out_dtype == torch.float64) else None
    y = fk.dct_crop(x, (20, 17), out_dtype=out_dtype)
    assert_matches(y, dctn(x, "ortho")[:20, :17], dtype=out_dtype, tolerance=tolerance)
    y = fk.idct_pad(x, (66, 50), out_dtype=out_dtype)
    assert_matches(y, idctn(x, (66, 50), "ortho"), dtype=out_dtype, tolerance=tolerance)
    y = fk.dct_resize(x, (20, 60), out_dtype=out_dtype)
    assert_matches(y, idctn(dctn(x, "ortho")[:20], (20, 60), "ortho"), dtype=out_dtype, tolerance=tolerance)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_conversions_are_exact(dtype):
    """A DCT of length 1 is the identity, so it shows the conversions alone: all 65536 values, and every rounding."""
    every = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype)
    out = fk.dct(every[:, None], out_dtype=torch.float32)[:, 0]
    torch.testing.assert_close(out, every.float(), rtol=0, atol=0, equal_nan=True)
    back = fk.dct(every[:, None])[:, 0]
    torch.testing.assert_close(back, every, rtol=0, atol=0, equal_nan=True)

    finite = every[every.isfinite()].float().sort().values
    for compute in (torch.float32, torch.float64):
        between = finite.to(compute)
        middle = (between[1:] + between[:-1]) / 2  # ties to even
        above = torch.nextafter(middle, torch.full_like(middle, math.inf))
        below = torch.nextafter(middle, torch.full_like(middle, -math.inf))
        samples = torch.cat([middle, above, below, torch.tensor([1e30, -1e30, math.inf, -math.inf], dtype=compute)])
        got = fk.dct(samples[:, None], out_dtype=dtype)[:, 0]
        if compute == torch.float32:
            expected = samples.to(dtype)
        else:  # torch rounds float64 twice, through float32; numpy rounds once
            nearest = finite.to(torch.float64)
            right = torch.searchsorted(nearest, samples.clamp(nearest[0], nearest[-1])).clamp_max(len(nearest) - 1)
            left = (right - 1).clamp_min(0)
            to_left, to_right = (samples - nearest[left]).abs(), (nearest[right] - samples).abs()
            even = finite.to(dtype)[right].view(torch.int16) % 2 == 0
            pick = torch.where((to_right < to_left) | ((to_right == to_left) & even), right, left)
            expected = finite.to(dtype)[pick]
            largest = torch.finfo(dtype).max * (1 + ROUNDOFF[dtype] / 2)
            overflow = samples.abs() >= largest * 0.999999
            got, expected = got[~overflow], expected[~overflow]
        torch.testing.assert_close(got + 0.0, expected + 0.0, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_every_nan_stays_one(dtype):
    """Also one whose upper half alone would be an infinity, and one that rounding would turn into a zero."""
    bits = torch.tensor([0x7F800001, 0x7FC00000, 0x7FFFFFFF, 0x7FFF8000, -0x7FFFFF, -0x400000, -1, -0x8000])
    every = bits.to(torch.int32).view(torch.float32)
    assert every.isnan().all()
    lanes = every.repeat(33)[:261]  # whole vectors, and a rest
    assert fk.dct(lanes[:, None], out_dtype=dtype).isnan().all()
    assert fk.dct_crop(lanes[:, None, None], 1, out_dtype=dtype).isnan().all()
    assert fk.idct(lanes[None], 1, 0, out_dtype=dtype).isnan().all()
    assert fk.idct_pad(lanes[:, None, None], (3, 5), out_dtype=dtype).isnan().all()
    rows = lanes[:, None].repeat(1, 40)
    assert fk.dct(rows, out_dtype=dtype).isnan().all()
    assert fk.dct(rows.T, dim=0, out_dtype=dtype).isnan().all()


@pytest.mark.parametrize("n", [1, 8, 12, 15, 131])
def test_nan_anywhere_reaches_every_result(n):
    x = torch.zeros(n, n).fill_diagonal_(math.nan)  # row i has its NaN at position i
    assert fk.dct(x).isnan().all()
    assert fk.idct(x, n + 3).isnan().all()
    assert fk.dct(x, 1).isnan().all()
    matrices = torch.zeros(n, n, n)
    matrices[torch.arange(n), torch.arange(n), torch.arange(n).flip(0)] = math.nan
    assert fk.dct_crop(matrices, 1).isnan().all()
    assert fk.idct_pad(matrices, n + 1).isnan().all()
    assert fk.dct2(matrices).isnan().all()
    assert fk.idct2(matrices).isnan().all()
    assert fk.dct_resize(matrices, (n + 2, max(1, n - 2))).isnan().all()
    assert fk.lowpass(matrices, 1).isnan().all()
    assert all(y.isnan().all() for y in fk.dct_crop_many(list(matrices), 1))
    fk.lowpass_(matrices, 1)
    assert matrices.isnan().all()


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("n", [12, 15, 131])
def test_nan_and_inf_stay_in_their_lane(bad, n):
    x = torch.randn(40, n)
    x[7, 3] = bad
    y = fk.dct(x)
    assert not y[7].isfinite().any()
    rest = torch.arange(40) != 7
    assert torch.equal(y[rest], fk.dct(torch.where(x.isfinite(), x, 0.0))[rest])
    batch = torch.randn(3, 20, n)
    batch[1, 2, 3] = bad
    z = fk.dct_crop(batch, 4)
    assert not z[1].isfinite().any()
    assert z[[0, 2]].isfinite().all()
    for op in (fk.dct2, fk.idct2, lambda v: fk.dct_resize(v, 30), lambda v: fk.lowpass(v, 4)):
        z = op(batch)
        assert not z[1].isfinite().any()
        assert z[[0, 2]].isfinite().all()


@pytest.mark.parametrize("n", [51, 64])
def test_lanes_of_very_different_size_do_not_disturb_each_other(n):
    scale = torch.logspace(-15, 15, 48, dtype=torch.float64)[:, None]
    x = (torch.randn(48, n, dtype=torch.float64) * scale).float()
    assert_matches(fk.dct(x), dctn(x, "ortho", (-1,)), dtype=torch.float32, lanes=True)
    assert_matches(fk.idct(x), idctn(x, (n,), "ortho", (-1,)), dtype=torch.float32, lanes=True)


def test_float16_subnormals_survive_flushing_of_float32_ones():
    x = torch.tensor([[2.98e-6], [1e-5], [6e-8], [-6e-8]], dtype=torch.float16)
    expected = x.float()
    assert torch.set_flush_denormal(True)
    try:
        got = fk.dct(x, out_dtype=torch.float32)
    finally:
        torch.set_flush_denormal(False)
    assert torch.equal(got, expected)


def test_an_int_means_both_axes():
    x = torch.randn(9, 12, dtype=torch.float64)
    assert torch.equal(fk.dct_crop(x, 5), fk.dct_crop(x, (5, 5)))
    assert torch.equal(torch.ops.front.dct_crop(x, 5), fk.dct_crop(x, (5, 5)))
    assert torch.equal(torch.ops.front.dct_crop.square(x, 5, norm="forward"), fk.dct_crop(x, (5, 5), norm="forward"))
    assert torch.equal(torch.ops.front.dct_crop(x, [5, 4]), fk.dct_crop(x, (5, 4)))
    assert torch.equal(torch.ops.front.idct_pad(x, 15), fk.idct_pad(x, (15, 15)))
    assert torch.equal(torch.ops.front.idct_pad.square(x, 15), fk.idct_pad(x, (15, 15)))
    assert torch.equal(fk.dct_resize(x, 7, k=3), fk.dct_resize(x, (7, 7), k=(3, 3)))
    assert torch.equal(fk.lowpass(x, 3), fk.lowpass(x, (3, 3)))


@pytest.mark.parametrize("norm", NORMS)
def test_reference_agrees_with_scipy(norm):
    x = torch.randn(11, 14, dtype=torch.float64)
    ref, forward = fk.reference, dctn(x, norm)
    for got, expected in (
        (ref.dct(x, 4, 0, norm=norm), dctn(x, norm, (0,))[:4]),
        (ref.idct(x, 20, norm=norm), idctn(x, (20,), norm, (-1,))),
        (ref.dct2(x, norm=norm), forward),
        (ref.idct2(x, norm=norm), idctn(x, (11, 14), norm)),
        (ref.dct_crop(x, (4, 5), norm=norm), forward[:4, :5]),
        (ref.idct_pad(x, (13, 20), norm=norm), idctn(x, (13, 20), norm)),
        (ref.dct_resize(x, (13, 9), norm=norm), idctn(forward[:, :9], (13, 9), norm)),
        (ref.lowpass(x, (4, 5)), idctn(dctn(x, "ortho")[:4, :5], (11, 14), "ortho")),
        (ref.basis(14, 6) @ x[0], dctn(x[0], "ortho", (-1,))[:6]),
        (ref.norm_scale(14, norm), dctn(x[0], norm, (-1,)) / dctn(x[0], "ortho", (-1,))),
    ):
        assert_matches(got, expected, dtype=torch.float64, tolerance=1e-13)


@pytest.mark.slow
@pytest.mark.parametrize("kept", [4096, 2048])
def test_the_worst_of_millions_of_elements(kept):
    """In eps of the larger of the element and the root mean square; all steps in float32, they are 9.4 and 8.9."""
    for seed in (0, 1):
        x = torch.randn(kept, kept, generator=torch.Generator().manual_seed(seed))
        found, exact = fk.idct_pad(x, (4096, 4096)), fk.idct_pad(x.double(), (4096, 4096))
        error = (found - exact).abs_() / exact.abs().clamp_min_(exact.square().mean().sqrt())
        assert error.max() <= 7.5 * torch.finfo(torch.float32).eps
