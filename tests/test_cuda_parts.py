"""Batches and lists of matrices whose intermediates are more than the workspace may take: one part after the other."""

from __future__ import annotations

import pytest
import torch

from compare import assert_matches
from front_kernels import _C
from test_cuda_emulated import F32, FORWARD, INVERSE, RESIZE, SMALL, exact, execute, randn

COUNT, BATCH, M, N, KEPT = 3, 5, 18, 20, (6, 8)  # a list of tensors that are batches
EACH = 4 * 20 * KEPT[1]  # bytes of an intermediate, rows being rounded up to fours


@pytest.mark.parametrize(
    ("most", "parts"), [(EACH - 1, 15), (2 * EACH, 9), (5 * EACH, 3), (12 * EACH, 2), (15 * EACH, 1), (0, 1)]
)
@pytest.mark.parametrize("how", ["forward", "inverse", "resize", "in place"])
def test_values_of_parts(how, most, parts):
    direction = {"forward": FORWARD, "inverse": INVERSE}.get(how, RESIZE)
    before, after = (KEPT, (M, N)) if direction == INVERSE else ((M, N), KEPT if direction == FORWARD else (M, N))
    x = randn(COUNT, BATCH, *before)
    expected = exact(x, direction, (M, N), KEPT)
    out = x if how == "in place" else torch.full((COUNT, BATCH, *after), float("nan"))
    there = after if direction == RESIZE else (0, 0)
    sizes = []

    def make(workspace):
        launches, size = _C.cuda_matrix_launches(
            direction, [M, N, *KEPT, *there], [before[1], 1, after[1], 1], [F32] * 3, "ortho",
            [a.data_ptr() for a in x], [a.data_ptr() for a in out],
            [(BATCH, before[0] * before[1], after[0] * after[1])], workspace, SMALL, most,
        )  # fmt: skip
        sizes.append(size)
        return launches, size

    names = execute(make, x, out, 1)
    assert len(names) == parts * (3 if direction == RESIZE else 2)
    held = min(COUNT * BATCH, max(1, most // EACH)) if most else COUNT * BATCH
    largest = held if held < BATCH else held // BATCH * BATCH
    assert largest * EACH <= sizes[0] < largest * EACH + 256
    assert_matches(out, expected, dtype=torch.float32)
