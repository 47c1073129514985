"""Few coefficients of columns, computed while the rows stream by (csrc/cpu/streamed.h), and their inverse."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import scipy.fft
import torch

import front_kernels as fk
from compare import assert_matches

# More than twice a core's cache; rows that end within a vector and within a group of blocks; odd lengths, whose middle
# value has no partner; lengths of many sums of 256 pairs, and of less than one of 16.
SHAPES = [(4096, 1024), (4095, 1027), (1025, 4104), (520, 8198), (66, 65564)]
LARGE = (4096, 2048)  # with its coefficients more than 32 MiB, the most that a last cache is taken to hold
ROUNDED = [torch.bfloat16, torch.float16]


def coefficients(x: torch.Tensor, k: int, dim: int = -2) -> torch.Tensor:
    exact = torch.from_numpy(scipy.fft.dct(x.double().numpy(), axis=dim, norm="ortho", workers=2))
    return exact.narrow(dim, 0, k)


def values(x: torch.Tensor, n: int, dim: int = -2) -> torch.Tensor:
    """Of coefficients, padded with zeros."""
    sizes = [0, 0, 0, n - x.shape[dim]] if dim == -2 else [0, n - x.shape[dim]]
    padded = torch.nn.functional.pad(x.double(), sizes)
    return torch.from_numpy(scipy.fft.idct(padded.numpy(), axis=dim, norm="ortho", workers=2))


def noise(shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """As a part of rows that hold NaN elsewhere."""
    x = torch.full((*shape[:-1], shape[-1] + 24), float("nan"), dtype=dtype)[..., 11:-13]
    return x.copy_(torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape))))


@pytest.mark.parametrize("shape", [*SHAPES, LARGE])
@pytest.mark.parametrize("k", [1, 2, 7, 8])
def test_one_axis(shape, k):
    x = noise(shape)
    plan = fk.plan_for(shape, (k, shape[1]))
    assert shape[0] < 1000 or "while rows stream by" in plan["columns"]["text"]
    assert_matches(fk.dct(x, k, dim=0), coefficients(x, k), dtype=torch.float32)


@pytest.mark.parametrize("shape", [*SHAPES, LARGE])
@pytest.mark.parametrize("k", [1, 2, 7, 8])
def test_one_axis_back(shape, k):
    x = noise((k, shape[1]))
    plan = fk.plan_for(shape, (k, shape[1]), inverse=True)
    assert shape[0] < 1000 or "while rows stream by" in plan["columns"]["text"]
    assert_matches(fk.idct(x, shape[0], dim=0), values(x, shape[0]), dtype=torch.float32)


# In a core's cache; as many coefficients as are computed so there.
@pytest.mark.parametrize(("n", "row", "k"), [(512, 260, 8), (511, 140, 9), (1024, 260, 7), (256, 256, 16)])
def test_near(n, row, k):
    for inverse in (False, True):
        assert "while rows stream by" in fk.plan_for((n, row), (k, row), inverse=inverse)["columns"]["text"]
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        x, y = noise((n, row), dtype), noise((k, row), dtype)
        assert_matches(fk.dct(x, k, dim=0), coefficients(x, k), dtype=dtype)
        assert_matches(fk.idct(y, n, dim=0), values(y, n), dtype=dtype)
        for op, z, size in ((fk.dct, x, k), (fk.idct, y, n)):
            found = by_threads(z, size, op)
            assert all(torch.equal(found[0], other) for other in found[1:])
            both = op(torch.stack([z, z.flip(1)]), size, dim=-2)
            assert torch.equal(both[0], found[0])
            assert torch.equal(both[1], op(z.flip(1).contiguous(), size, dim=-2))


@pytest.mark.parametrize("dtype", [*ROUNDED, torch.float64])
@pytest.mark.parametrize("shape", SHAPES[:2])
def test_dtypes(shape, dtype):
    x = noise((shape[0], 2 * shape[1]), dtype)
    assert_matches(fk.dct(x, 9, dim=0), coefficients(x, 9), dtype=dtype)
    wide = torch.float32 if dtype in ROUNDED else dtype
    assert_matches(fk.dct(x, 9, dim=0, out_dtype=wide), coefficients(x, 9), dtype=wide)


@pytest.mark.parametrize("dtype", [*ROUNDED, torch.float64])
@pytest.mark.parametrize("shape", SHAPES[:2])
def test_dtypes_back(shape, dtype):
    x = noise((9, shape[1]), dtype)
    assert_matches(fk.idct(x, shape[0], dim=0), values(x, shape[0]), dtype=dtype)
    wide = torch.float32 if dtype in ROUNDED else dtype
    assert_matches(fk.idct(x, shape[0], dim=0, out_dtype=wide), values(x, shape[0]), dtype=wide)


@pytest.mark.parametrize("norm", ["backward", "forward", "adjoint:ortho", "adjoint:backward"])
def test_norms(norm):
    x = noise(SHAPES[1])
    expected = fk.reference.dct(x.double(), 5, 0, norm=norm)
    assert_matches(fk.dct(x, 5, dim=0, norm=norm), expected, dtype=torch.float32)
    x = noise((5, SHAPES[1][1]))
    expected = fk.reference.idct(x.double(), SHAPES[1][0], 0, norm=norm)
    assert_matches(fk.idct(x, SHAPES[1][0], dim=0, norm=norm), expected, dtype=torch.float32)


@pytest.mark.parametrize(("n", "k"), [(4095, 17), (4095, 40), (2038, 64), (2049, 33)])
def test_more_coefficients(n, k):
    x = noise((n, 2064))
    assert "while rows stream by" in fk.plan_for((n, 2064), (k, 2064))["columns"]["text"]
    assert_matches(fk.dct(x, k, dim=0), coefficients(x, k), dtype=torch.float32)
    x = noise((k, 2064))
    assert "while rows stream by" in fk.plan_for((n, 2064), (k, 2064), inverse=True)["columns"]["text"]
    found = fk.idct(x, n, dim=0)
    assert_matches(found, values(x, n), dtype=torch.float32)
    # Columns within a vector at the end of a row are not streamed, and have the same bits.
    assert torch.equal(fk.idct(x[:, :1029], n, dim=0), found[:, :1029])


def test_a_batch_is_its_matrices():
    x = noise((3, 2050, 1040))
    found = fk.dct(x, 7, dim=-2)
    assert_matches(found, coefficients(x, 7), dtype=torch.float32)
    assert all(torch.equal(found[i], fk.dct(x[i], 7, dim=-2)) for i in range(3))
    x = noise((3, 7, 1040))
    found = fk.idct(x, 2050, dim=-2)
    assert_matches(found, values(x, 2050), dtype=torch.float32)
    assert all(torch.equal(found[i], fk.idct(x[i], 2050, dim=-2)) for i in range(3))


@pytest.mark.parametrize("count", [2, 33, 64])
def test_a_batch_within_rows_is_its_matrices(count):
    """Whose rows lie beside those of the others: what is chosen for a matrix depends on it alone."""
    x = torch.randn(511, count, 131).transpose(0, 1)
    assert "while rows stream by" in fk.plan_for((511, 131), (16, 131))["columns"]["text"]
    cropped, one = fk.dct_crop(x, (16, 131)), fk.dct(x, 16, dim=-2)
    for i in (0, count - 1):
        assert torch.equal(cropped[i], fk.dct_crop(x[i], (16, 131)))
        assert torch.equal(one[i], fk.dct(x[i], 16, dim=-2))


@pytest.mark.parametrize("count", [2, 33])
def test_paddings_within_rows_are_those_of_their_matrices(count):
    x = torch.randn(count, 16, 131)
    assert "while rows stream by" in fk.plan_for((511, 131), (16, 131), inverse=True)["columns"]["text"]
    outs = torch.empty(511, count, 131).transpose(0, 1), torch.empty(511, 131)
    fk.idct_pad(x, (511, 131), out=outs[0])
    for i in (0, count - 1):
        assert torch.equal(outs[0][i], fk.idct_pad(x[i], (511, 131), out=outs[1]))


def test_a_matrix_that_is_stored_by_columns():
    x = noise((2051, 4095)).t()
    assert_matches(fk.dct(x, 9, dim=1), coefficients(x, 9, 1), dtype=torch.float32)
    assert_matches(fk.idct(x[:9], 4095, dim=0), values(x[:9], 4095), dtype=torch.float32)
    expected = coefficients(coefficients(x, 9, 1), 30)
    assert_matches(fk.dct_crop(x, (30, 9)), expected, dtype=torch.float32)


def test_a_part_of_long_rows():
    x = torch.randn(8192, 4096)[:, 5:105]
    plan = fk.plan_for((8192, 100), (8, 100))
    assert "while rows stream by" not in plan["columns"]["text"]  # of a matrix alone: they follow each other
    assert_matches(fk.dct(x, 8, dim=0), coefficients(x, 8), dtype=torch.float32)


@pytest.mark.parametrize("k", [(8, 2051), (13, 2000)])
def test_the_first_of_two_axes(k):
    x = noise((4095, 2051))
    plan = fk.plan_for(tuple(x.shape), k)
    assert plan["order"] == "columns first"
    assert "while rows stream by" in plan["columns"]["text"]
    out = torch.full((k[0], k[1] + 5), -7.0)
    fk.dct_crop(x, k, out=out[:, 2:-3])
    expected = coefficients(coefficients(x, k[0]), k[1], -1)
    assert_matches(out[:, 2:-3].contiguous(), expected, dtype=torch.float32)
    assert (out[:, :2] == -7).all()
    assert (out[:, -3:] == -7).all()


@pytest.mark.parametrize("k", [(8, 2051), (13, 2000), (9, 30), (64, 64), (16, 12)])  # the last: more rows than columns
def test_the_last_of_two_axes(k):
    x = noise(k)
    plan = fk.plan_for((4095, 2051), k, inverse=True)
    assert plan["order"] == "rows first"
    assert "while rows stream by" in plan["columns"]["text"]
    out = torch.full((4095, 2056), -7.0)
    fk.idct_pad(x, (4095, 2051), out=out[:, 2:-3])
    assert_matches(out[:, 2:-3].contiguous(), values(values(x, 4095), 2051, -1), dtype=torch.float32)
    assert (out[:, :2] == -7).all()
    assert (out[:, -3:] == -7).all()


def test_a_padding_that_overlaps_its_coefficients():
    x = torch.zeros(1025, 2051)
    x[:16, :13] = noise((16, 13))
    kept = x[:16, :13].clone()
    expected = fk.idct_pad(kept, (1025, 2051))
    assert "while rows stream by" in fk.plan_for((1025, 2051), (16, 13), inverse=True)["columns"]["text"]
    assert torch.equal(fk.idct_pad(x[:16, :13], (1025, 2051), out=x), expected)
    x[:16, :13] = kept
    assert torch.equal(fk.idct_pad_(x, (16, 13)), expected)


def test_what_is_not_finite_stays_in_its_column_back():
    x = noise((13, 2051))
    exact = values(x, 4095)
    x[0, 0], x[5, 130], x[12, 2050] = float("nan"), float("inf"), -float("inf")
    found = fk.idct(x, 4095, dim=0)
    others = torch.ones(2051, dtype=torch.bool)
    others[[0, 130, 2050]] = False
    assert not found[:, ~others].isfinite().any()
    assert_matches(found[:, others], exact[:, others], dtype=torch.float32)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("row", [0, 2047, 4094])
def test_what_is_not_finite_stays_in_its_column(value, row):
    x = noise((4095, 2051))
    exact = coefficients(x, 8)
    for column in (0, 130, 2050):
        x[row, column] = value
    found = fk.dct(x, 8, dim=0)
    others = torch.ones(2051, dtype=torch.bool)
    others[[0, 130, 2050]] = False
    assert not found[:, ~others].isfinite().any()
    assert_matches(found[:, others], exact[:, others], dtype=torch.float32)


def by_threads(x: torch.Tensor, k: int, op: Callable[..., torch.Tensor] = fk.dct) -> list[torch.Tensor]:
    threads, found = torch.get_num_threads(), []
    try:
        for count in (1, 2, 3, 7, 17):
            torch.set_num_threads(count)
            found.append(op(x, k, dim=-2))
    finally:
        torch.set_num_threads(threads)
    return found


def test_threads_do_not_matter():
    for found in (by_threads(noise((4095, 2051)), 13), by_threads(noise((13, 2051)), 4095, fk.idct)):
        assert all(torch.equal(found[0], other) for other in found[1:])


def test_threads_do_not_matter_where_results_lie_closer_than_values():
    """The last block of one matrix and the first of the next are adjacent in the result only; and the middle value,
    which has no partner, is infinite."""
    x = torch.randn(2, 2049, 272)
    x[:, 1024] = float("inf")
    found = by_threads(x, 1)
    assert all(torch.equal(found[0].nan_to_num(7), other.nan_to_num(7)) for other in found[1:])
    assert found[0].isinf().all()
