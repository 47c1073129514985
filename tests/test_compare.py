"""The comparator must fail what is wrong and pass what is rounding."""

from __future__ import annotations

import pytest
import torch

from compare import assert_matches, relative_error

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


@pytest.fixture
def expected() -> torch.Tensor:
    return torch.randn(64, 96, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("dtype", DTYPES)
def test_passes_the_rounded_result(expected, dtype):
    assert_matches(expected.to(dtype), expected, dtype=dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_fails_zeros(expected, dtype):
    with pytest.raises(AssertionError, match="relative L2 error 1 >"):
        assert_matches(torch.zeros_like(expected, dtype=dtype), expected, dtype=dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scale", [1.0, 1e-6])
def test_fails_zeros_of_a_small_signal(expected, dtype, scale):
    with pytest.raises(AssertionError, match="relative L2 error"):
        assert_matches(torch.zeros_like(expected, dtype=dtype), expected * scale, dtype=dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_fails_one_wrong_row(expected, dtype):
    actual = expected.to(dtype, copy=True)
    actual[17] *= 1.05
    with pytest.raises(AssertionError):
        assert_matches(actual, expected, dtype=dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_fails_one_wrong_element(expected, dtype):
    actual = expected.to(dtype, copy=True)
    actual[3, 5] += 0.05
    with pytest.raises(AssertionError):
        assert_matches(actual, expected, dtype=dtype)


@pytest.mark.parametrize(("dtype", "limit"), [(torch.float32, 3e-7), (torch.float64, 2e-14)])
def test_the_limit_is_where_it_says(expected, dtype, limit):
    scaled = torch.ones_like(expected)
    assert_matches((scaled * (1 + 0.9 * limit)).double(), scaled, dtype=torch.float64, tolerance=limit)
    with pytest.raises(AssertionError, match="relative L2"):
        assert_matches((scaled * (1 + 1.1 * limit)).double(), scaled, dtype=torch.float64, tolerance=limit)
    with pytest.raises(AssertionError, match="relative L2"):
        assert_matches((expected * (1 + 1.3 * limit)).to(dtype), expected, dtype=dtype)
    with pytest.raises(AssertionError, match="relative L2"):
        assert_matches(scaled * (1 + 1e-15), scaled, dtype=torch.float64, tolerance=0.0)


@pytest.mark.parametrize("dtype", DTYPES[:3])
def test_a_missing_small_matrix_fails_beside_a_large_one(expected, dtype):
    batch = torch.stack([expected * 1e7, expected])
    actual = batch.to(dtype, copy=True)
    assert_matches(actual, batch, dtype=dtype)
    actual[1] = 0
    with pytest.raises(AssertionError, match="relative L2 error 1 >"):
        assert_matches(actual, batch, dtype=dtype)


@pytest.mark.parametrize("dtype", DTYPES[:3])
def test_a_missing_small_lane_fails_beside_large_ones(expected, dtype):
    rows = expected * torch.logspace(-10, 10, 64, dtype=torch.float64)[:, None]
    actual = rows.to(dtype, copy=True)
    assert_matches(actual, rows, dtype=dtype, lanes=True)
    actual[:56] = 0
    with pytest.raises(AssertionError, match="relative L2 error 1 >"):
        assert_matches(actual, rows, dtype=dtype, lanes=True)


def test_one_element_within_the_l2_limit_fails_by_the_element_limit():
    expected = torch.ones(4000, 4000, dtype=torch.float64)
    actual = expected.to(torch.float32, copy=True)
    actual[1, 1] += 1e-4
    assert relative_error(actual, expected) < 3e-7
    with pytest.raises(AssertionError, match=r"one element|one row"):
        assert_matches(actual, expected, dtype=torch.float32)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_fails_what_is_not_finite(expected, bad):
    actual = expected.to(torch.float32, copy=True)
    actual[0, 0] = bad
    with pytest.raises(AssertionError, match="not finite"):
        assert_matches(actual, expected, dtype=torch.float32)


def test_fails_wrong_shape_and_dtype(expected):
    with pytest.raises(AssertionError, match="shape"):
        assert_matches(expected[1:], expected, dtype=torch.float64)
    with pytest.raises(AssertionError, match="dtype"):
        assert_matches(expected.float(), expected, dtype=torch.float64)
