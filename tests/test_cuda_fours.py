"""Both passes of matrices through their intermediate, which lies in fours: sizes that leave a part of one over, and
plans of all shapes, which the planner takes for few lanes, long axes or float64 only. Emulated, against float64."""

from __future__ import annotations

import pytest
import torch

from compare import assert_matches
from emulate import H200, compile_kernels
from front_kernels import _C
from test_cuda_emulated import F32, F64, FORWARD, INVERSE, RESIZE, TORCH, exact, matrices, randn, taken

SHAPES = [(41, 23), (94, 26), (3, 1000), (11, 768), (768, 5), (1, 48), (48, 1), (42, 64)]


def check(size, kept, direction, there=None, *, kind=F32, hardware=H200) -> list[str]:
    there = size if there is None else there
    x = randn(*(kept if direction == INVERSE else size), kind=kind)
    shape = {FORWARD: kept, INVERSE: size, RESIZE: there}[direction]
    out = torch.zeros(shape, dtype=TORCH[kind])
    names = matrices(x, out, direction, kept, hardware=hardware)
    expected = exact(x, direction, {FORWARD: size, INVERSE: size, RESIZE: there}[direction], kept)
    assert_matches(taken(out), expected, dtype=TORCH[kind])
    return names


def check_all(cases) -> list[list[str]]:
    """check() of each (size, kept, direction), whose kernels are compiled at once."""
    launches = []
    for (m, n), kept, direction in cases:
        strides = [n, 1, kept[1], 1] if direction == FORWARD else [kept[1], 1, n, 1]
        launches += _C.cuda_matrix_launches(
            direction, [m, n, *kept, 0, 0], strides, [F32] * 3, "ortho", [64], [64], [], 64, H200
        )[0]
    compile_kernels(launches)
    return [check(*case) for case in cases]


@pytest.mark.parametrize("size", SHAPES)
def test_sizes(size):
    """With the plans of an H200, for which these are few lanes."""
    half = tuple(max(1, n // 2) for n in size)
    check_all([(size, kept, direction) for kept in (half, size) for direction in (FORWARD, INVERSE)])


@pytest.mark.parametrize(("size", "there"), [((41, 23), (30, 50)), ((94, 26), (101, 50)), ((45, 64), (47, 64))])
def test_resized(size, there):
    check(size, tuple(min(pair) for pair in zip(size, there, strict=True)), RESIZE, there)


@pytest.mark.parametrize(("size", "kind"), [((6, 8192), F64), ((8192, 3), F64), ((5, 16384), F32), ((16384, 6), F32)])
@pytest.mark.parametrize("direction", [FORWARD, INVERSE])
def test_long_axes(size, kind, direction):
    check(size, size, direction, kind=kind)


@pytest.fixture
def force():
    """force(n, share, radices, (lanes, together, threads per lane, overlaid), fours), until the test is over."""
    forced = []

    def set_plan(n, share, radices, shape, fours, real_bytes=4):
        numbers = [n, share, real_bytes, *shape, 0, 1]
        _C.cuda_force_plan(numbers, radices, fours)
        forced.append((numbers, fours))

    yield set_plan
    for numbers, fours in forced:
        _C.cuda_force_plan(numbers, [], fours)


PLANS = [(1, 1, 32, 0), (1, 1, 32, 1), (2, 1, 32, 0), (2, 2, 16, 1), (4, 2, 32, 0), (4, 4, 8, 1), (8, 4, 32, 0),
         (16, 2, 16, 0)]  # fmt: skip


@pytest.mark.parametrize("shape", PLANS, ids=str)
@pytest.mark.parametrize("share", [1, 4])
def test_plans_of_all_shapes(force, shape, share):
    """On 11 rows and 11 columns, so that every block of several lanes has a tail."""
    n, radices = 512, [8, 4, 8]
    for fours in (1, 2):
        force(n, share, radices, shape, fours)
    lanes, together, threads, overlaid = shape
    part = f"_n512_s{share}_r8x4x8_l{lanes}{'o' if overlaid else 't'}{together}x{threads}_"
    kept = n // share
    cases = [(size, k, d) for d in (FORWARD, INVERSE) for size, k in (((11, n), (11, kept)), ((n, 11), (kept, 11)))]
    for names, place in zip(check_all(cases), (0, 1, 1, 0), strict=True):  # rows first forward, and last back
        assert part in names[place]


def test_a_forced_plan_is_forgotten(force):
    names = check((4, 512), (4, 512), FORWARD)
    force(512, 1, [8, 4, 8], (2, 2, 16, 1), 1)
    assert check((4, 512), (4, 512), FORWARD) != names
    _C.cuda_force_plan([512, 1, 4, 2, 2, 16, 1, 0, 1], [], 1)
    assert check((4, 512), (4, 512), FORWARD) == names


GOOD = [512, 1, 4, 2, 2, 16, 1, 0, 1]


@pytest.mark.parametrize(
    ("position", "value", "message"),
    [(0, 0, "n must be 1 to 2\\^20, got 0"), (1, 3, "share must be 1, 2, 4 or 8, got 3"),
     (2, 2, "bytes must be 4 or 8, got 2"), (3, 3, "lanes must be a power of two up to 32, got 3"),
     (4, 0, "together must divide lanes, got 0"),
     (4, 1, "overlaid needs all lanes together"), (5, 1000, "threads must be 1 to 1024 in all, got 2000"),
     (8, 0, "blocks must be 1 to 32, got 0")],
)  # fmt: skip
def test_bad_plans(position, value, message):
    numbers = list(GOOD)
    numbers[position] = value
    with pytest.raises(ValueError, match=message):
        _C.cuda_force_plan(numbers, [8, 4, 8], 1)


def test_bad_radices_and_fours():
    with pytest.raises(ValueError, match="the radices' product must be the number of points, got 128"):
        _C.cuda_force_plan(GOOD, [8, 4, 4], 1)
    with pytest.raises(ValueError, match="must have nine numbers, got 8"):
        _C.cuda_force_plan(GOOD[:-1], [8, 4, 8], 1)
    with pytest.raises(ValueError, match=r"fours must be 0 \(none\), 1 \(lanes\) or 2 \(values\), got 3"):
        _C.cuda_force_plan(GOOD, [8, 4, 8], 3)
    with pytest.raises(ValueError, match="fours must be 0"):
        _C.cuda_axis_plan(512, 512, 4, 1, H200, -1)
