"""Matrices of more than 2^31 elements: offsets do not fit 32 bits."""

from __future__ import annotations

import pytest
import torch

import front_kernels as fk
from compare import relative_error

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("large")]  # 4.3 GB each: one at a time

M, N = (1 << 16) + 3, (1 << 15) + 2  # 2^31 + 229 382 elements, 4.3 GB in bfloat16
POINTS = [(0, 0, 1.0), (40_000, 17, -2.0), (M - 1, N - 1, 3.0), (M - 2, 5, 4.0)]


def expected(k: tuple[int, int]) -> torch.Tensor:
    """The corner of the DCT of a matrix that is zero but for POINTS: a sum of outer products of basis columns."""
    rows, columns = fk.reference.basis(M, k[0]), fk.reference.basis(N, k[1])
    return sum(value * torch.outer(rows[:, i], columns[:, j]) for i, j, value in POINTS)


def test_crop_of_more_than_2_31_elements():
    x = torch.zeros(M, N, dtype=torch.bfloat16)
    assert x.numel() > 2**31
    for i, j, value in POINTS:
        x[i, j] = value
    assert relative_error(fk.dct_crop(x, (3, 5), out_dtype=torch.float32), expected((3, 5))) <= 3e-7


def test_pad_to_more_than_2_31_elements():
    y = torch.zeros(2, 3)
    y[1, 2], y[0, 0] = 5.0, -1.0
    out = fk.idct_pad(y, (M, N), out_dtype=torch.bfloat16)
    assert out.numel() > 2**31
    rows, columns = fk.reference.basis(M, 2), fk.reference.basis(N, 3)
    for i, j in ((0, 0), (M - 1, N - 1), (M - 1, 0), (M // 2, N - 3), (40_000, 32_000)):
        exact = 5 * rows[1, i] * columns[2, j] - rows[0, i] * columns[0, j]
        assert abs(out[i, j].double() - exact) <= 2.0**-8 * abs(exact) + 1e-12
