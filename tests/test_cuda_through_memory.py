"""Axes that go through memory in one launch, of many lanes: emulated, against float64."""

from __future__ import annotations

import pytest
import torch

from compare import assert_matches
from emulate import H200
from front_kernels import _C
from test_cuda_emulated import (
    BF16,
    F16,
    F32,
    F64,
    FORWARD,
    INVERSE,
    LIMIT,
    LIMIT_THROUGH_MEMORY,
    RESIZE,
    SMALL,
    TORCH,
    axis,
    exact,
    execute,
    matrices,
    randn,
)


# Of many lanes all steps are one launch, in which a block takes one lane after the other: convolutions, and two steps,
# of even and odd lengths.
@pytest.mark.parametrize(
    ("n", "kept", "lanes", "kind"),
    [(94, 41, 521, F32), (47, 47, 521, F32), (62, 62, 521, F64), (30522, 400, 9, F32), (65536, 1000, 9, F32),
     (59049, 59049, 9, F32)],
)  # fmt: skip
@pytest.mark.parametrize("direction", [FORWARD, INVERSE])
def test_many_lanes_through_memory(n, kept, lanes, kind, direction):
    x = randn(lanes, n if direction == FORWARD else kept, kind=kind)
    results = []
    for seed in (0, 1) if n < 100 else (1,):
        out, names = axis(x, direction, n, kept, seed=seed)
        assert [name.split("_")[1] for name in names] == ["through"]
        results.append(out)
    expected = exact(x, direction, (n,), (kept,))
    typical = 1.0 if direction == FORWARD else (kept / n) ** 0.5
    tolerance = LIMIT[F64] if kind == F64 else LIMIT_THROUGH_MEMORY
    assert_matches(results[0], expected, dtype=TORCH[kind], tolerance=tolerance, lanes=True, rms=typical)
    assert torch.equal(results[0], results[-1])


def test_nan_stays_in_its_lane_where_a_block_takes_many():
    x = randn(521, 94)
    x[4, 50] = float("nan")
    out, _ = axis(x, FORWARD, 94, 94)
    assert out[4].isnan().all()
    assert not out[torch.arange(521) != 4].isnan().any()


@pytest.mark.parametrize("direction", [FORWARD, INVERSE])
def test_many_matrices_of_many_lanes_through_memory(direction):
    """Along rows, a batch axis and more pointers than a launch takes; along columns, through the intermediate."""
    for m, n, count in ((9, 94, 130), (94, 300, 2)):
        kept = (m, 30) if m == 9 else (31, 260)
        shape, result = ((m, n), kept) if direction == FORWARD else (kept, (m, n))
        x, out = randn(count, 1, *shape), torch.full((count, 1, *result), float("nan"))
        strides = [shape[1], 1, result[1], 1]
        names = execute(
            lambda workspace, x=x, out=out, m=m, n=n, kept=kept, strides=strides: _C.cuda_matrix_launches(
                direction, [m, n, *kept, 0, 0], strides, [F32] * 3, "ortho", [a.data_ptr() for a in x],
                [a.data_ptr() for a in out], [], workspace, SMALL,
            ),
            x, out, 1,
        )  # fmt: skip
        kinds = [name.split("_")[1] for name in names]
        assert kinds.count("through") == (2 if count == 130 else 1)
        assert_matches(out[:, 0], exact(x[:, 0], direction, (m, n), kept), dtype=torch.float32)


@pytest.mark.parametrize(("kind", "out_kind"), [(F16, BF16), (BF16, F32), (F32, F64)])
@pytest.mark.parametrize("direction", [FORWARD, INVERSE])
def test_types_layouts_and_norms_where_a_block_takes_many_lanes(direction, kind, out_kind):
    x = randn(94, 521, kind=kind).T
    out, names = axis(x, direction, 94, 94, out_kind=out_kind, norm="forward", seed=1)
    assert [name.split("_")[1] for name in names] == ["through"]
    expected = exact(x, direction, (94,), (94,), "forward")
    assert_matches(out, expected, dtype=TORCH[out_kind], tolerance=1e-15 if out_kind == F64 else None)


@pytest.mark.parametrize("direction", [FORWARD, INVERSE, RESIZE])
def test_passes_through_memory_share_its_points(direction):
    """Both axes; in place where the sizes are the same. Rows are one launch, columns of few lanes are steps."""
    m, n, kept = 521, 94, (521, 31)
    given = kept if direction == INVERSE else (m, n)
    there = {FORWARD: kept, INVERSE: (m, n), RESIZE: (521, 62)}[direction]
    x = randn(m, n)
    out = x[: there[0], : there[1]] if direction != RESIZE else torch.full(there, float("nan"))
    x = x[: given[0], : given[1]]
    before = x.clone()
    names = matrices(x, out, direction, kept)
    assert {name.split("_")[1] for name in names} >= {"through", "pack", "down", "along", "unpack"}
    if direction == RESIZE:
        coefficients = exact(before, FORWARD, (m, n), kept)
        expected = exact(coefficients, INVERSE, there, kept)
    else:
        expected = exact(before, direction, (m, n), kept)
    assert_matches(out, expected, dtype=torch.float32, tolerance=1e-6)


def test_points_are_reserved_anew_only_where_more_are_needed():
    size, kept = 1 << 15, 1 << 11  # 50257 rows: a convolution of 2^17 points; 30522 columns: one of 2^15
    args = (FORWARD, [50257, 30522, kept, kept, 0, 0], [30522, 1, kept, 1], [F32] * 3, "ortho", [256], [512], [])
    launches, found = _C.cuda_matrix_launches(*args, 0, H200)
    assert [launch["name"].split("_")[1] for launch in launches] == ["through", "through"]
    areas = [8 * points * launch["blocks"] for points, launch in zip((size, 1 << 17), launches, strict=True)]
    assert found == 4 * 50260 * kept + sum(areas)  # rows in fours; grown once
    swapped = [30522, 50257, kept, kept, 0, 0], [50257, 1, kept, 1]
    launches, found = _C.cuda_matrix_launches(FORWARD, *swapped, *args[3:], 0, H200)
    assert found == 4 * 30524 * kept + max(areas)
