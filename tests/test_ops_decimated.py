"""Rows that the columns' filter makes fewer while they are loaded (csrc/cpu/decimated_rows.h), or more while they are
stored (csrc/cpu/interpolated_rows.h), against float64."""

from __future__ import annotations

from typing import Any

import pytest
import scipy.fft
import torch

import front_kernels as fk

# Of the last block one to all lanes are used; rows end within a vector, a strip (up to 512 values) and a piece that is
# filtered along (128); rows that are decimated themselves, by either filter, that are not, and of odd length. A half of
# the rows and, where an eighth is kept and vectors are long or rows dear, a quarter.
CASES = [
    ((512, 512), (64, 64)),
    ((516, 600), (64, 75)),
    ((544, 1028), (68, 128)),
    ((1024, 611), (256, 40)),
    ((1028, 2051), (257, 200)),
    ((1032, 3000), (258, 1500)),
    ((1060, 1100), (265, 275)),
    ((2048, 4096), (64, 16)),
    ((2752, 2176), (688, 100)),
    ((1032, 1019), (129, 300)),
    ((1544, 514), (193, 514)),
]


def row_decimation(shape: tuple[int, int], k: tuple[int, int], **arguments: Any) -> int:
    return fk.plan_for(shape, k, **arguments)["row_decimation"]


def expected_decimation(shape: tuple[int, int], k: tuple[int, int]) -> set[int]:
    isa = fk.build_info()["cpu_isa"]
    if 8 * k[0] > shape[0]:  # by the long filter, not for the narrowest vectors
        return {1 if isa == "generic" else 2}
    if isa == "generic":
        return {2} if k[1] < shape[1] / 4 else {1, 2}
    if shape[0] % 8 != 0:
        return {2}
    return {4} if isa == "avx512" else {2, 4}


def relative(result: torch.Tensor, exact: torch.Tensor) -> float:
    return ((result.double() - exact).norm() / exact.norm()).item()


def coefficients(x: torch.Tensor, k: tuple[int, int]) -> torch.Tensor:
    return torch.from_numpy(scipy.fft.dctn(x.double().numpy(), axes=(-2, -1), norm="ortho"))[..., : k[0], : k[1]]


def values(c: torch.Tensor, shape: tuple[int, int]) -> torch.Tensor:
    padded = torch.zeros(*c.shape[:-2], *shape, dtype=torch.float64)
    padded[..., : c.shape[-2], : c.shape[-1]] = c
    return torch.from_numpy(scipy.fft.idctn(padded.numpy(), axes=(-2, -1), norm="ortho"))


def within(shape: tuple[int, ...], columns: slice, dtype: torch.dtype) -> torch.Tensor:
    """Noise, as a part of rows that hold NaN elsewhere."""
    torch.manual_seed(sum(shape))
    x = torch.full((*shape[:-1], shape[-1] + 24), float("nan"), dtype=dtype)[..., columns]
    return x.copy_(torch.randn(x.shape))


@pytest.mark.parametrize(("shape", "k"), CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_crop(shape, k, dtype):
    assert row_decimation(shape, k, dtype=dtype) in expected_decimation(shape, k)
    x = within(shape, slice(11, -13), dtype)
    out = torch.full((k[0], k[1] + 5), -7.0, dtype=dtype)
    fk.dct_crop(x, k, out=out[:, 2:-3])
    limit = 2.2e-7 if dtype == torch.float32 else torch.finfo(dtype).eps
    assert relative(out[:, 2:-3], coefficients(x, k)) <= limit
    assert (out[:, :2] == -7).all()
    assert (out[:, -3:] == -7).all()


@pytest.mark.parametrize(("shape", "k"), CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_pad(shape, k, dtype):
    assert row_decimation(shape, k, dtype=dtype, inverse=True) in expected_decimation(shape, k)
    c = within(k, slice(11, -13), dtype)
    exact = values(c.double(), shape)
    limit = 2.4e-7 if dtype == torch.float32 else torch.finfo(dtype).eps
    # Rows of whole lines, of elements that are none, and a power of two apart.
    for row, begin in ((-(-shape[1] // 32) * 32 + 64, 32), (shape[1] + 5, 2), (4096, 64)):
        around = torch.full((shape[0], row), -7.0, dtype=dtype)
        end = begin + shape[1]
        if end > row:
            continue
        fk.idct_pad(c, shape, out=around[:, begin:end])
        assert relative(around[:, begin:end], exact) <= limit
        assert (around[:, :begin] == -7).all()
        assert (around[:, end:] == -7).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_what_is_not_a_number_fills_its_pad(dtype):
    c = torch.ones(128, 96, dtype=dtype)
    c[5, 7] = float("nan")
    assert row_decimation((1024, 1027), (128, 96), dtype=dtype, inverse=True) > 1
    assert fk.idct_pad(c, (1024, 1027)).isnan().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_large_pad_lies_anywhere(dtype):
    """Its bits do not depend on where."""
    shape, k = (4096, 4096), (256, 320)
    c = within(k, slice(11, -13), dtype)
    whole = fk.idct_pad(c, shape)
    assert relative(whole, values(c.double(), shape)) <= (2.4e-7 if dtype == torch.float32 else torch.finfo(dtype).eps)
    shifted = torch.full((shape[0], shape[1] + 3), -7.0, dtype=dtype)
    fk.idct_pad(c, shape, out=shifted[:, 1:-2])
    assert torch.equal(shifted[:, 1:-2], whole)
    assert (shifted[:, [0, -2, -1]] == -7).all()


@pytest.mark.parametrize(("shape", "k"), CASES)
def test_lowpass_and_resize(shape, k):
    x = within(shape, slice(1, -23), torch.float32)
    exact = coefficients(x, k)
    assert relative(fk.lowpass(x, k), values(exact, shape)) <= 3e-7
    for size in ((k[0] + 3, 2 * k[1]), (shape[0] + 80, shape[1] // 2)):
        kept = coefficients(x, (min(k[0], size[0]), min(k[1], size[1])))
        assert relative(fk.dct_resize(x, size, k=k), values(kept, size)) <= 3e-7


def test_batches_lists_and_in_place():
    shape, k = (516, 600), (64, 75)
    x = within((3, 2, *shape), slice(7, -17), torch.float32)
    exact = coefficients(x, k)
    assert relative(fk.dct_crop(x, k), exact) <= 2.2e-7
    assert relative(fk.dct_crop(x.transpose(0, 1), k), exact.transpose(0, 1)) <= 2.2e-7
    matrices = [x[0, 0], x[2, 1], x[1, 0].contiguous()]
    for y, matrix in zip(fk.dct_crop_many(matrices, k), matrices, strict=True):
        assert torch.equal(y, fk.dct_crop(matrix, k))
    c = exact.float()
    back = values(c.double(), shape)
    assert relative(fk.idct_pad(c, shape), back) <= 2.4e-7
    assert relative(fk.idct_pad(c.transpose(0, 1), shape), back.transpose(0, 1)) <= 2.4e-7
    for y, matrix in zip(fk.idct_pad_many([c[0, 0], c[2, 1]], shape), (c[0, 0], c[2, 1]), strict=True):
        assert torch.equal(y, fk.idct_pad(matrix, shape))
    same = x[0, 0].clone()
    assert torch.equal(fk.lowpass_(same, k), fk.lowpass(x[0, 0], k))


@pytest.mark.parametrize(("shape", "k"), CASES[:4])
def test_other_layouts_are_not_decimated(shape, k):
    """Rows whose elements lie apart, and matrices that are stored by columns, give the same."""
    x = within(shape, slice(0, -24), torch.float32)
    y, exact = fk.dct_crop(x, k), coefficients(x, k)
    apart = torch.full((shape[0], 2 * shape[1]), float("nan"))[:, ::2].copy_(x)
    for same in (apart, x.t().contiguous().t()):
        found = fk.dct_crop(same, k)
        assert relative(found, exact) <= 2.2e-7
        assert relative(found, y.double()) <= 2.2e-7
    mirrored = fk.dct_crop(x.flip(0).contiguous(), k)  # every other coefficient of the columns changes its sign
    assert relative(mirrored[::2], exact[::2]) <= 2.2e-7
    assert relative(mirrored[1::2], -exact[1::2]) <= 2.2e-7


@pytest.mark.parametrize(("shape", "k"), CASES[:4])
def test_results_of_other_layouts_are_not_interpolated(shape, k):
    """Rows whose elements lie apart, and matrices that are stored by columns, become the same."""
    c = within(k, slice(0, -24), torch.float32)
    y, exact = fk.idct_pad(c, shape), values(c.double(), shape)
    apart = torch.full((shape[0], 2 * shape[1]), -7.0)
    fk.idct_pad(c, shape, out=apart[:, ::2])
    assert (apart[:, 1::2] == -7).all()
    by_columns = torch.empty(shape[::-1]).t()
    fk.idct_pad(c, shape, out=by_columns)
    for same in (apart[:, ::2], by_columns):
        assert relative(same, exact) <= 2.4e-7
        assert relative(same, y.double()) <= 2.4e-7
    upside_down = torch.empty(shape)  # every other coefficient of the columns changes its sign
    mirrored = c.clone()
    mirrored[1::2] *= -1
    fk.idct_pad(mirrored, shape, out=upside_down)
    assert relative(upside_down.flip(0), exact) <= 2.4e-7


def test_the_gradient_is_the_transpose():
    x = within((1060, 1100), slice(24, None), torch.float32).requires_grad_()
    y = fk.dct_crop(x, (265, 275))
    g = torch.randn_like(y)
    y.backward(g)
    assert relative(x.grad, values(g.double(), x.shape)) <= 3e-7


@pytest.mark.parametrize("norm", ["backward", "forward"])
def test_norms(norm):
    x = within((516, 600), slice(9, -15), torch.float32)
    exact = torch.from_numpy(scipy.fft.dctn(x.double().numpy(), norm=norm))[:64, :75]
    assert relative(fk.dct_crop(x, (64, 75), norm=norm), exact) <= 2.2e-7


def test_rows_of_no_stride_and_a_result_inside_the_matrix():
    row = within((1, 512), slice(24, None), torch.float32)
    assert relative(fk.dct_crop(row.expand(1024, 512), 128), coefficients(row.expand(1024, 512), (128, 128))) <= 2.2e-7
    x = within((1024, 512), slice(24, None), torch.float32)
    expected, crop = fk.dct_crop(x, 128), x[100:228, 64:192]
    fk.dct_crop(x, 128, out=crop)
    assert torch.equal(crop, expected)


# The columns by resampled DFTs, and fused, whose coefficients are written as they come by one thread or all; of blocks
# that are written together.
@pytest.mark.parametrize(
    ("shape", "k"),
    [((1028, 2051), (257, 200)), ((1024, 1024), (128, 128)), ((1024, 2024), (128, 128)), ((1024, 1600), (900, 1600))],
)
@pytest.mark.parametrize("threads", [1, 2, 3, 7])
def test_the_result_does_not_depend_on_threads(shape, k, threads):
    x = within(shape, slice(3, -21), torch.float32)
    expected, low, before = fk.dct_crop(x, k), fk.lowpass(x, k), torch.get_num_threads()
    back = fk.idct_pad(expected, shape)
    torch.set_num_threads(threads)
    try:
        assert torch.equal(fk.dct_crop(x, k), expected)
        assert torch.equal(fk.idct_pad(expected, shape), back)
        assert torch.equal(fk.lowpass(x, k), low)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("k", [(128, 40), (257, 40)])
def test_rows_that_take_each_others_place_in_a_cache(dtype, k):
    """They give, bit for bit, what rows that lie otherwise give."""
    values = torch.randn(1028, 611, dtype=dtype)
    results = []
    for row in (1024 if dtype == torch.float32 else 2048, 1031):
        x = torch.full((1028, row), float("nan"), dtype=dtype)[:, :611]
        x.copy_(values)
        results.append(torch.ops.front.dct_crop(x, k, out_dtype=torch.float32))
    assert torch.equal(*results)
    exact = torch.from_numpy(scipy.fft.dctn(values.double().numpy(), norm="ortho"))[: k[0], : k[1]]
    assert (results[0].double() - exact).norm() <= 3e-7 * exact.norm()
