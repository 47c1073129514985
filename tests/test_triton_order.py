"""The order of the two axes in the Triton engine, and what its plans ask of the kernels; in Triton's interpreter."""

from __future__ import annotations

import pytest
import torch

import interpreted
from compare import assert_matches
from front_kernels import _costs, reference

pytest.importorskip("triton", reason="Triton is not installed: its kernels are not tested")
from front_kernels.triton import kernels, launch, plan, tiles

HALF, SINGLE, DOUBLE = torch.bfloat16, torch.float32, torch.float64
H200 = ("NVIDIA H200", "sm_90")
TERMS = 3e-5  # the largest error of one element, of the scale, that a basis of two bfloat16 terms may leave


def layout(shape, dtype, by_columns=False):
    return plan.Layout(shape, (1, shape[0]) if by_columns else (shape[1], 1), dtype)


def planned(
    shape, k, dtype, by_columns=False, precision="highest", direction="forward", x=None, out=None, names=("nothing",)
):
    target = plan.Target(names, 132, precision)
    inverse = direction == "inverse"
    ends = (k, shape) if inverse else (shape, k)
    x = layout(ends[0], dtype, by_columns) if x is None else plan.Layout.of(x)
    out = layout(ends[1], dtype) if out is None else plan.Layout.of(out)
    return plan.matrices(x, out, 1, direction, (0, 0), "ortho", target, True, False)


def axes(found):
    """Length, coefficients and lanes of each pass."""
    steps = [step.arguments for step in found.steps if step.kernel in (kernels.axis, kernels.axis_moments)]
    return [(a["n"], min(a["rows"], a.get("terms", a["n"])), a["lanes"]) for a in steps]


SHAPES = [
    ((8192, 8192), (4096, 256)),
    ((8192, 8192), (4096, 129)),
    ((8192, 8192), (256, 4096)),
    ((8192, 8192), (1024, 1024)),
    ((30522, 768), (15261, 96)),
    ((768, 30522), (96, 15261)),
    ((30522, 768), (256, 256)),
    ((3072, 768), (1536, 384)),
    ((1000, 300), (1000, 300)),
    ((300, 1000), (300, 1000)),
    ((1025, 131), (140, 2)),
]


@pytest.mark.parametrize(("shape", "k"), SHAPES)
@pytest.mark.parametrize("precision", ["highest", "fast"])
@pytest.mark.parametrize("dtype", [HALF, torch.float16, SINGLE, DOUBLE])
@pytest.mark.parametrize("by_columns", [False, True])
def test_the_cost_is_that_of_the_order_that_is_planned(shape, k, dtype, precision, by_columns):
    for inverse in (False, True):
        problem = _costs.Problem(1, shape, k, inverse, dtype, dtype, by_columns)
        found = planned(shape, k, dtype, by_columns, precision, "inverse" if inverse else "forward")
        assert axes(found) == [(p.n, p.k, p.lanes) for p in problem.passes(precision)]


@pytest.mark.parametrize(
    ("shape", "k", "dtype"),
    [
        ((8192, 8192), (4096, 256), SINGLE),
        ((8192, 8192), (4096, 129), HALF),
        ((8192, 8192), (4096, 129), DOUBLE),
        ((30522, 768), (15261, 96), HALF),
    ],
)
def test_the_axis_of_which_few_are_kept_goes_first(shape, k, dtype):
    """Though it is contiguous, and not folded; the intermediate is as small as it may be."""
    (m, n), (k0, k1) = shape, k
    for by_columns, size, kept in ((False, shape, k), (True, shape[::-1], k[::-1])):
        found = planned(size, kept, dtype, by_columns)
        assert axes(found) == [(n, k1, m), (m, k0, k1)]
        assert found.workspace_bytes == m * k1 * max(4, dtype.itemsize)
        first, second = (step.arguments for step in found.steps)
        assert first["x_j"] == 1
        assert second["x_l"] == 1
        assert (first["FOLD"], second["FOLD"]) == (False, dtype != DOUBLE)


@pytest.mark.parametrize(
    ("shape", "k"), [((8192, 8192), (1024, 1024)), ((3072, 768), (1536, 384)), ((8192, 8192), (256, 4096))]
)
@pytest.mark.parametrize("dtype", [HALF, SINGLE])
def test_otherwise_the_contiguous_axis_goes_last(shape, k, dtype):
    (m, n), (k0, k1) = shape, k
    for by_columns, size, kept in ((False, shape, k), (True, shape[::-1], k[::-1])):
        assert axes(planned(size, kept, dtype, by_columns)) == [(m, k0, n), (n, k1, k0)]


def last_grid(found):
    """Of the pass whose sums are not divided: its tile and its programs."""
    step = found.steps[-1]
    assert step.kernel is kernels.axis
    return step.arguments["BU"], step.arguments["BL"], step.grid


@pytest.mark.parametrize(
    ("shape", "k", "tile", "programs"),
    [
        ((30522, 768), (256, 256), (32, 32), 4 * 8),  # folded: half the rows
        ((1000, 333), (130, 140), (32, 32), 3 * 5),
        ((1536, 3000), (1536, 768), (64, 64), 6 * 24),  # enough of them
    ],
)
def test_small_results_are_made_by_small_tiles(shape, k, tile, programs):
    """Where most multiprocessors would have none."""
    assert last_grid(planned(shape, k, SINGLE, names=H200)) == (*tile, programs)


@pytest.mark.parametrize(
    ("tile", "size", "programs", "expected"),
    [
        ((64, 64), (128, 256), 132, (32, 32)),
        ((64, 64), (4096, 4096), 132, (64, 64)),
        ((128, 64), (384, 1024), 132, (64, 64)),  # 48 tiles, 96 of them
        ((64, 128), (512, 512), 132, (64, 32)),
        ((64, 16), (64, 16), 132, (32, 16)),
        ((16, 16), (16, 16), 132, (16, 16)),
        ((64, 64), (128, 256), 11, (64, 64)),
    ],
)
def test_tiles_are_halved_where_less_is_read_again(tile, size, programs, expected):
    assert tiles.spread(*tile, *size, programs) == expected


@pytest.mark.parametrize("k", [(140, 3), (3, 140), (130, 131)])
@pytest.mark.parametrize("by_columns", [False, True])
@pytest.mark.parametrize("dtype", [SINGLE, HALF])
def test_values(k, by_columns, dtype, monkeypatch):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU: tests/gpu runs the kernels on it")
    interpreted.round_to_bfloat16(monkeypatch)
    shape = (150, 160)
    x = torch.randn(shape[::-1] if by_columns else shape).to(dtype)
    x = x.mT if by_columns else x
    out = torch.full(k, float("nan"))
    found = planned(shape, k, dtype, x=x, out=out)
    assert len(found.steps) == 2
    launch.carry_out(found, [x], [out])
    assert_matches(out, reference.dct_crop(x, k), dtype=SINGLE, tolerance=TERMS if dtype == HALF else 5e-7)
