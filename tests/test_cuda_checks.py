"""The emulator's checks, by planted faults: each must be found, as what it is and where it is."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from emulate import CUDA, H200, Buffer, Findings, run
from front_kernels import _C

M, N, K = 11, 1024, 512


def findings(headers: Path, direction: int = 0, *, shared_less: int = 0, misaligned: bool = False) -> list[Findings]:
    """Of one axis, with 11 lanes: more than a block's and not a multiple of them."""
    n, kept = (N, K) if direction == 0 else (K, N)
    start = int(misaligned)
    memory = np.random.default_rng(0).standard_normal(start + M * n).astype(np.float32)
    x = memory[start:]
    out = np.zeros((M, kept), np.float32)
    lanes = [(M, n, kept)]
    args = (direction, N, K, [1, 1], [2, 2, 2], "ortho", x.ctypes.data, out.ctypes.data, lanes, 0, H200)
    launches, _ = _C.cuda_axis_launches(*args)
    launches[0]["shared_bytes"] -= shared_less
    return run(launches, [Buffer(memory), Buffer(out, written=True)], headers=headers)


def planted(tmp_path: Path, file: str, old: str, new: str, count: int = 1) -> Path:
    headers = tmp_path / "headers"
    shutil.copytree(CUDA, headers)
    text = (headers / file).read_text()
    assert text.count(old) == count, f"{file} has changed: {old!r} is there {text.count(old)} times"
    (headers / file).write_text(text.replace(old, new))
    return headers


@pytest.mark.parametrize("direction", [0, 1])
def test_nothing_is_found_where_nothing_is_wrong(direction):
    assert [found.total for found in findings(CUDA, direction)] == [0]


def test_missing_barrier_between_reads_and_writes(tmp_path):
    """Stockham's stages read all points before any is written."""
    found = findings(planted(tmp_path, "axis.h", 'block.each("stage"', 'block.last("stage"', 2))[0]
    assert found.races > 0
    assert "'stage'" in found.first


def test_missing_barrier_after_loading(tmp_path):
    found = findings(planted(tmp_path, "rows.h", 'block.each("load rows"', 'block.last("load rows"'))[0]
    assert found.races > 0
    assert "'stage'" in found.first
    assert "reads what another thread writes in the same phase" in found.first


def test_missing_barrier_before_the_tile_is_stored(tmp_path):
    found = findings(planted(tmp_path, "coefficients.h", 'block.each("split"', 'block.last("split"', 3))[0]
    assert found.races > 0
    assert "'store coefficients'" in found.first
    assert "reads what another thread writes in the same phase" in found.first


def test_short_buffer(tmp_path):
    window = "points = block.template shared<typename A::Point>(0, A::padded * A::together);"
    short = window.replace("A::padded * A::together", "A::padded * A::together - 6")
    found = findings(planted(tmp_path, "kernels.h", window, short, 3))[0]
    assert found.bounds > 0
    assert "'load rows'" in found.first
    assert "index out of range of shared memory" in found.first


def test_launch_with_too_little_shared_memory():
    """The window is as long as the kernel was told; what the launch gave is shorter."""
    found = findings(CUDA, shared_less=16)[0]
    assert found.bounds > 0
    assert "'split'" in found.first


def test_wrong_stride(tmp_path):
    """A stage that writes some points twice and leaves others unwritten, which the next one reads."""
    found = findings(planted(tmp_path, "axis.h", "j / span * (span * R)", "j / span * (span * (R - 1))"))[0]
    assert found.uninitialised > 0
    assert found.races > 0
    assert "'stage'" in found.first
    assert "writes what another thread writes in the same phase" in found.first


def test_unguarded_tail_of_a_store(tmp_path):
    guard = "lane < static_cast<u32>(place.lanes); ++lane"
    found = findings(planted(tmp_path, "tile.h", guard, "lane < A::lanes; ++lane"))[0]
    assert found.bounds > 0
    assert "'store coefficients'" in found.first


def test_unguarded_tail_of_a_load(tmp_path):
    guard = "if (side.group >= place.template live<A>(first)) return;"
    found = findings(planted(tmp_path, "rows.h", guard, "", 2))[0]
    assert found.bounds > 0
    assert "'load rows'" in found.first


def test_read_of_what_was_not_written(tmp_path):
    old = "tile.write(at, v);"
    headers = planted(tmp_path, "tile.h", old, f"if (at > 0) {old}")
    found = findings(headers, 1)[0]
    assert found.uninitialised > 0
    assert (found.races, found.bounds) == (0, 0)
    assert "'merge'" in found.first
    assert "never written" in found.first


def test_read_past_the_end_of_an_input(tmp_path):
    """Of the last lane by one element: every other lane's neighbour is in the buffer."""
    headers = planted(tmp_path, "rows.h", "p + 3 * along", "p + 4 * along")
    found = findings(headers, misaligned=True)[0]
    assert found.bounds == 1
    assert "'load rows'" in found.first
    assert "address outside of every buffer" in found.first


def test_misaligned_quads(tmp_path):
    """Loads of four neighbours where the launch said that they are not aligned."""
    headers = planted(tmp_path, "rows.h", "if (!args.in_quads)", "if (false)")
    found = findings(headers, misaligned=True)[0]
    assert found.bounds > 0
    assert "not aligned" in found.first


def through_memory(headers: Path) -> Findings:
    """Of 521 lanes of 94 values on one multiprocessor: two blocks that take one lane after the other."""
    x, out = np.ones((521, 94), np.float32), np.zeros((521, 94), np.float32)
    args = (0, 94, 94, [1, 1], [2, 2, 2], "ortho", x.ctypes.data, out.ctypes.data, [(521, 94, 94)])
    _, size = _C.cuda_axis_launches(*args, 0, [1, *H200[1:]])
    workspace = np.zeros(size // 4, np.float32)
    (launch,), _ = _C.cuda_axis_launches(*args, workspace.ctypes.data, [1, *H200[1:]])
    memory = [Buffer(x), Buffer(workspace, written=True, filled=False), Buffer(out, written=True, filled=False)]
    return run([launch], memory, headers=headers)[0]


def test_nothing_is_found_through_memory():
    assert through_memory(CUDA).total == 0


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [('block.each("pack"', 'block.last("pack"', "reads memory that another thread writes in the same phase"),
     ('block.each("unpack"', 'block.last("unpack"', "writes memory that another thread reads in the same phase"),
     ("const i64 local = block.index();", "const i64 local = 0;", "writes memory that another block writes"),
     ("lane < args.count; lane += args.together", "lane < args.count; lane += 1",
      "writes memory that another block writes")],
)  # fmt: skip
def test_missing_order_of_what_goes_through_memory(tmp_path, old, new, message):
    """Between the steps of a block, which its barriers must order, and between blocks, which nothing does."""
    found = through_memory(planted(tmp_path, "large.h", old, new))
    assert found.races > 0
    assert message in found.first


def test_read_of_a_workspace_that_no_pass_wrote():
    x, out = np.zeros((16, 16), np.float32), np.zeros((16, 16), np.float32)
    workspace = np.zeros(512, np.float32)
    launches, _ = _C.cuda_matrix_launches(
        0, [16, 16, 16, 16, 0, 0], [16, 1, 16, 1], [2, 2, 2], "ortho", [x.ctypes.data], [out.ctypes.data], [],
        workspace.ctypes.data, H200,
    )  # fmt: skip
    memory = [Buffer(x), Buffer(workspace, written=True, filled=False), Buffer(out, written=True)]
    found = run(launches[1:], memory)[0]  # without the first pass
    assert found.uninitialised > 0
    assert "reads memory that was never written" in found.first


def test_write_to_an_input():
    x = np.zeros((8, 16), np.float32)
    args = (0, 16, 16, [1, 1], [2, 2, 2], "ortho", x.ctypes.data, x.ctypes.data, [(8, 16, 16)], 0, H200)
    launches, _ = _C.cuda_axis_launches(*args)
    found = run(launches, [Buffer(x)])[0]
    assert found.bounds > 0
    assert "writes to an input" in found.first


def test_a_register_that_was_never_written(tmp_path):
    """Between two phases a thread keeps a butterfly's points in registers: undefined on a device, NaN here."""
    old = "unrolled<0, R>([&](auto inner) {\n        constexpr int r = decltype(inner)::value;\n"
    old += "        if constexpr (S == A::stages - 1)"
    fewer = planted(tmp_path, "axis.h", old, old.replace("unrolled<0, R>", "unrolled<0, R - 1>"))
    for headers, finite in ((CUDA, True), (fewer, False)):
        x, out = np.ones((M, N), np.float32), np.zeros((M, N), np.float32)
        along = ([1, 1], [2, 2, 2], "ortho", x.ctypes.data, out.ctypes.data, [(M, N, N)], 0, H200)
        launches, _ = _C.cuda_axis_launches(0, N, N, *along)
        run(launches, [Buffer(x), Buffer(out, written=True)], headers=headers)
        assert np.isfinite(out).all() == finite
