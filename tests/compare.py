"""The comparator that judges the kernels; tests/test_compare.py judges it."""

from __future__ import annotations

import torch
from torch import Tensor

# Relative L2 error against float64 that an op may have, by compute dtype.
TOLERANCE = {torch.float32: 3e-7, torch.float64: 2e-14}
# Unit roundoff of the dtypes that only round a float32 result.
ROUNDOFF = {torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8}


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """||actual - expected|| / ||expected||, in float64."""
    difference = actual.to(torch.float64) - expected.to(torch.float64)
    return float(difference.norm() / expected.to(torch.float64).norm().clamp_min(torch.finfo(torch.float64).tiny))


def assert_matches(
    actual: Tensor,
    expected: Tensor,
    *,
    dtype: torch.dtype,
    tolerance: float | None = None,
    rms: float = 0.0,
    lanes: bool = False,
    before_rounding: float = 8 * torch.finfo(torch.float32).eps,
) -> None:
    """Fails unless `actual` (of `dtype`) is `expected` (float64) up to its rounding.

    Three measures, since each forgives what another sees: the relative L2 error of every matrix (of every row, with
    `lanes`: rows that were transformed by themselves), that of every row, and every element. For float16 and bfloat16
    each element may be off by the rounding of a result that itself is off by `before_rounding` of the scale. Errors are
    relative to the root mean square of the matrix (or lane), or to `rms` where that is more: what it would be had the
    few sums that make it up not cancelled by chance.
    """
    assert actual.dtype == dtype, f"dtype {actual.dtype}, expected {dtype}"
    assert actual.shape == expected.shape, f"shape {tuple(actual.shape)}, expected {tuple(expected.shape)}"
    assert expected.dtype == torch.float64
    if expected.numel() == 0:
        return
    assert torch.isfinite(actual).all(), "not finite"
    limit = tolerance if tolerance is not None else TOLERANCE.get(dtype, TOLERANCE[torch.float32])
    # [groups, rows, columns]: a group is what one transform made, and is judged on its own scale.
    shape = (-1, 1, expected.shape[-1]) if lanes or expected.dim() < 2 else (-1, *expected.shape[-2:])
    a, e = actual.to(torch.float64).reshape(shape), expected.reshape(shape)
    scale = root_mean_square(e, (-2, -1)).clamp_min(max(rms, torch.finfo(torch.float64).tiny))
    rounding = ROUNDOFF.get(dtype, 0.0)
    if rounding:  # of a float32 result that is off by some of its own roundings, which can tip a tie
        smallest = torch.finfo(dtype).smallest_normal * rounding  # half a step of the subnormals
        allowed = 1.01 * (rounding * e.abs() + smallest) + before_rounding * scale
        a = torch.where((a - e).abs() <= allowed, e, a)
    error = (root_mean_square(a - e, (-2, -1)) / scale).max().item()
    assert error <= limit, f"relative L2 error {error:.3g} > {limit:.3g}"
    row_scale = torch.maximum(root_mean_square(e, (-1,)), scale)
    row_error = (root_mean_square(a - e, (-1,)) / row_scale).max().item()
    assert row_error <= 4 * limit, f"relative error {row_error:.3g} of one row > {4 * limit:.3g}"
    element = ((a - e).abs() / torch.maximum(e.abs(), scale)).max().item()
    assert element <= 16 * limit, f"error {element:.3g} of one element > {16 * limit:.3g} of the scale"


def root_mean_square(x: Tensor, dims: tuple[int, ...]) -> Tensor:
    return x.square().mean(dims, keepdim=True).sqrt()
