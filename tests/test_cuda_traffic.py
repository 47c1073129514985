"""What the CUDA kernels move, as the emulator counts it: nothing twice, whole sectors, and no bank conflicts where it
matters."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import pytest

from emulate import H200, Buffer, run
from front_kernels import _C

F16, BF16, F32, F64 = range(4)
NUMPY = (np.float16, np.uint16, np.float32, np.float64)  # of bfloat16 the bits
SECTOR = 32


def passes(
    direction: int, sizes: list[int], inputs: np.ndarray, out: np.ndarray, hardware: list[int] = H200, kind: int = F32
):
    """Runs each launch by itself: [(reads, writes, requested, sectors) by buffer] per launch. [..., m, n]."""
    strides = [inputs.shape[-1], 1, out.shape[-1], 1]
    batch = [(inputs.shape[0], inputs[0].size, out[0].size)] if inputs.ndim == 3 else []
    types = [kind, F64 if kind == F64 else F32, kind]

    def make(workspace: int):
        return _C.cuda_matrix_launches(
            direction, sizes, strides, types, "ortho", [inputs.ctypes.data], [out.ctypes.data], batch, workspace,
            hardware,
        )  # fmt: skip

    _, size = make(0)
    workspace = np.full(size // 4, np.nan, np.float32)
    launches, _ = make(workspace.ctypes.data)
    valid = np.zeros(workspace.nbytes, np.uint8)
    counted = []
    for launch in launches:
        buffers = [Buffer(inputs), Buffer(workspace, written=True, filled=False), Buffer(out, written=True)]
        buffers[1].valid[:] = valid
        (found,) = run([launch], buffers, seed=1, statistics=True)
        assert found.total == 0, found
        valid |= buffers[1].writes > 0
        counted.append((launch, buffers, found))
    return counted


def assert_once(count: np.ndarray, elements: int, what: str, size: int = 4) -> None:
    """`elements` of so many bytes moved, none of them twice."""
    assert count.max(initial=0) <= 1, f"{what}: something was moved twice"
    assert int(count.sum()) == size * elements, f"{what}: {int(count.sum())} bytes, planned are {size * elements}"


# Enough lanes that blocks take whole sectors of them; what else a plan does depends on the length.
MANY = [1, 227 << 10, 228 << 10]  # a device of one multiprocessor is busy with few lanes


@pytest.mark.parametrize(("m", "n", "k0", "k1"), [(256, 512, 64, 128), (64, 4096, 64, 512), (16, 8192, 8, 1024)])
def test_forward_traffic(m, n, k0, k1):
    x, out = np.ones((m, n), np.float32), np.zeros((k0, k1), np.float32)
    (_, first, _), (_, second, _) = passes(0, [m, n, k0, k1, 0, 0], x, out, MANY)
    assert_once(first[0].reads, m * n, "the matrix")
    assert_once(first[1].writes, m * k1, "the intermediate, written")
    assert int(first[1].reads.sum()) == int(first[2].writes.sum()) == 0
    assert_once(second[1].reads, m * k1, "the intermediate, read")
    assert_once(second[2].writes, k0 * k1, "the coefficients")
    assert int(second[0].reads.sum()) == 0
    # An axis so short that a warp takes several lanes of it asks for a sector in more than one instruction.
    for buffer in (first[0], first[1], *((second[1], second[2]) if m >= 256 else ())):
        assert buffer.requested == SECTOR * buffer.sectors, "sectors that are not used in full"


@pytest.mark.parametrize(("m", "n", "k0", "k1"), [(256, 512, 64, 128), (64, 4096, 64, 512), (16, 8192, 8, 1024)])
def test_inverse_traffic(m, n, k0, k1):
    x, out = np.ones((k0, k1), np.float32), np.zeros((m, n), np.float32)
    (_, first, _), (_, second, _) = passes(1, [m, n, k0, k1, 0, 0], x, out, MANY)
    assert_once(first[0].reads, k0 * k1, "the coefficients")
    assert_once(first[1].writes, m * k1, "the intermediate, written")
    assert_once(second[1].reads, m * k1, "the intermediate, read")
    assert_once(second[2].writes, m * n, "the matrix")
    # An axis so short that a warp takes several lanes of it asks for a sector in more than one instruction.
    for buffer in (second[1], second[2], *((first[0], first[1]) if m >= 256 else ())):
        assert buffer.requested == SECTOR * buffer.sectors, "sectors that are not used in full"


@pytest.mark.parametrize("kind", [F16, BF16, F32, F64])
@pytest.mark.parametrize("direction", [0, 1])
def test_traffic_of_two_matrices_of_any_type(direction, kind):
    """Whole sectors, but for elements of 2 bytes along columns, of which a block's lanes are half a sector; and of
    float64 two instructions ask for a half each."""
    m, n, k0, k1 = 256, 512, 64, 128
    shapes = [(2, m, n), (2, k0, k1)]
    x, out = (np.zeros(shape, NUMPY[kind]) for shape in (shapes if direction == 0 else shapes[::-1]))
    (_, first, _), (_, second, _) = passes(direction, [m, n, k0, k1, 0, 0], x, out, MANY, kind)
    size, middle = x.itemsize, 8 if kind == F64 else 4
    assert_once(first[0].reads, x.size, "the input", size)
    assert_once(first[1].writes, 2 * m * k1, "the intermediate, written", middle)
    assert_once(second[1].reads, 2 * m * k1, "the intermediate, read", middle)
    assert_once(second[2].writes, out.size, "the result", size)
    assert int(second[0].reads.sum()) == int(first[2].writes.sum()) == int(second[1].writes.sum()) == 0
    rows, columns = (first[0], second[2]) if direction == 0 else (second[2], first[0])
    for buffer in (rows, first[1], second[1], columns):
        used = buffer.requested / buffer.sectors
        if kind == F64:
            assert used in (SECTOR // 2, SECTOR)
        else:
            assert used == (SECTOR if buffer is not columns or size > 2 else SECTOR // 2)


@pytest.mark.parametrize(("rows", "columns"), [(256, 512), (192, 384)])
def test_resize_traffic(rows, columns):
    """Three kernels and no spectrum in memory; to the same size (a low-pass) and to another one."""
    m, n, k0, k1 = 256, 512, 64, 128
    x, out = np.ones((m, n), np.float32), np.zeros((rows, columns), np.float32)
    (_, first, _), (_, middle, _), (_, last, _) = passes(2, [m, n, k0, k1, rows, columns], x, out, MANY)
    assert_once(first[0].reads, m * n, "the matrix")
    assert_once(first[1].writes, m * k1, "the intermediate, written")
    assert_once(middle[1].reads, m * k1, "the intermediate, read")
    assert_once(middle[1].writes, rows * k1, "the intermediate, written again")
    assert_once(last[1].reads, rows * k1, "the intermediate, read again")
    assert_once(last[2].writes, rows * columns, "the result")
    for launch_buffers, used in ((first, {0, 1}), (middle, {1}), (last, {1, 2})):
        touched = {i for i, b in enumerate(launch_buffers) if b.reads.any() or b.writes.any()}
        assert touched == used


@pytest.mark.parametrize("direction", [0, 1])
def test_long_axes_that_are_kept_in_full(direction):
    """Along columns: all of a sector is used of the intermediate, half of what lies across a block's four lanes."""
    m, n = 8192, 16
    x, out = np.ones((m, n), np.float32), np.zeros((m, n), np.float32)
    (_, first, _), (_, second, _) = passes(direction, [m, n, m, n, 0, 0], x, out, MANY)
    intermediate, matrix = (second[1], second[2]) if direction == 0 else (first[1], first[0])
    assert intermediate.requested == SECTOR * intermediate.sectors
    assert matrix.requested == SECTOR // 2 * matrix.sectors


HOT = ("load rows", "stage", "split", "merge", "store rows", "load coefficients", "store coefficients")


@pytest.mark.parametrize(
    ("n", "kept"), [(768, 384), (1024, 1024), (3072, 768), (4096, 512), (8192, 1024), (8192, 8192), (11008, 2752)]
)
@pytest.mark.parametrize("along", ["rows", "columns"])
@pytest.mark.parametrize("direction", [0, 1])
def test_bank_conflicts(n, kept, along, direction):
    """Wavefronts of every phase within 1.3 times what they would be without conflicts."""
    m = 16  # lanes: two blocks with the plan of a large matrix
    shapes, sizes = [(m, n), (m, kept)], [m, n, m, kept, 0, 0]
    if along == "columns":
        shapes, sizes = [(n, m), (kept, m)], [n, m, kept, m, 0, 0]
    x, out = np.ones(shapes[direction], np.float32), np.zeros(shapes[1 - direction], np.float32)
    counted = passes(direction, sizes, x, out, MANY)
    _, _, found = counted[0 if (direction == 0) == (along == "rows") else 1]
    fours = 1 if along == "rows" else 2
    usual = _C.cuda_axis_plan(n, kept, 4, 8192, H200, fours)
    assert _C.cuda_axis_plan(n, kept, 4, m, MANY, fours) == usual, "not the plan of large matrices"
    assert f"_n{n}_" in found.name
    total: dict[str, np.ndarray] = defaultdict(lambda: np.zeros(2, np.int64))
    for key, counts in found.banks.items():
        total[key.partition("|")[0]] += counts
    assert len(total) >= 4
    assert set(total) <= set(HOT)
    for phase, (wavefronts, ideal) in total.items():
        assert wavefronts <= 1.3 * ideal, f"{found.name}, {phase}: {wavefronts / ideal:.2f} times the ideal"
