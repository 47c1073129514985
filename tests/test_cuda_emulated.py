"""The CUDA engine's device code against float64, on the CPU: every kernel family, under checks for races, bounds and
reads of what was never written, in two shuffled orders of the threads. (test_engines.py does so through the ops.)
"""

from __future__ import annotations

import numpy as np
import pytest
import scipy.fft
import torch

from compare import assert_matches
from emulate import H200, Buffer, run
from front_kernels import _C

FORWARD, INVERSE, RESIZE = 0, 1, 2
F16, BF16, F32, F64 = range(4)
TORCH = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
SENTINEL = 77.0


def randn(*shape: int, kind: int = F32, seed: int = 0) -> torch.Tensor:
    values = np.random.default_rng(seed).standard_normal(shape)
    return torch.from_numpy(values).to(TORCH[kind])


def exact(x: torch.Tensor, direction: int, size: tuple[int, ...], kept: tuple[int, ...], norm: str) -> torch.Tensor:
    """Over the last axes, as many as `size` has."""
    axes = tuple(range(-len(size), 0))
    y = x.to(torch.float64).numpy()
    corner = (..., *(slice(k) for k in kept))
    if direction != INVERSE:
        y = scipy.fft.dctn(y, axes=axes, norm=norm)[corner]
    if direction != FORWARD:
        padded = np.zeros((*y.shape[: -len(size)], *size))
        padded[corner] = y
        y = scipy.fft.idctn(padded, axes=axes, norm=norm)
    return torch.from_numpy(np.ascontiguousarray(y))


def bytes_of(x: torch.Tensor) -> np.ndarray:
    return torch.empty(0, dtype=torch.uint8).set_(x.untyped_storage()).numpy()


def execute(make, x: torch.Tensor, out: torch.Tensor, seed: int) -> list[str]:
    """Runs make(workspace address)'s launches; x may not be written. The kernels' names."""
    _, size = make(0)
    workspace = np.full(max(size, 8) // 8, np.nan)
    launches, _ = make(workspace.ctypes.data)
    memory = [Buffer(bytes_of(x)), Buffer(workspace, written=True, filled=False), Buffer(bytes_of(out), written=True)]
    for found in run(launches, memory, seed=seed):
        assert found.total == 0, found
    return [launch["name"] for launch in launches]


def axis(
    x: torch.Tensor, direction: int, n: int, kept: int, *, norm: str = "ortho", out_kind: int | None = None, seed=0
) -> tuple[torch.Tensor, list[str]]:
    """One axis of [lanes, .], into the middle of a tensor of sentinels."""
    kind = TORCH.index(x.dtype)
    out_kind = kind if out_kind is None else out_kind
    lanes, length = x.shape[0], kept if direction == FORWARD else n
    wide = torch.full((lanes + 2, length + 6), SENTINEL, dtype=TORCH[out_kind])
    out = wide[1:-1, 4:-2]
    types = [kind, F64 if F64 in (kind, out_kind) else F32, out_kind]
    strides = [(lanes, x.stride(0), out.stride(0))]
    names = execute(
        lambda workspace: _C.cuda_axis_launches(
            direction, n, kept, [x.stride(1), 1], types, norm, x.data_ptr(), out.data_ptr(), strides, workspace, H200
        ),
        x, wide, seed,
    )  # fmt: skip
    result = out.clone()
    out[:] = SENTINEL
    assert (wide == SENTINEL).all(), "written beside the output"
    return result, names


def check_axis(n: int, kept: int, lanes: int, *, kind: int = F32, tolerance: float | None = None, seed: int = 1):
    for direction in (FORWARD, INVERSE):
        x = randn(lanes, n if direction == FORWARD else kept, kind=kind)
        out, _ = axis(x, direction, n, kept, seed=seed)
        expected = exact(x, direction, (n,), (kept,), "ortho")
        typical = 1.0 if direction == FORWARD else (kept / n) ** 0.5  # what a few coefficients may fall short of
        assert_matches(out, expected, dtype=TORCH[kind], tolerance=tolerance, lanes=True, rms=typical)


# Lengths in shared memory: every radix, stages 1 to 4, odd and even, paired ends and not.
SHORT = [1, 2, 3, 4, 5, 7, 10, 16, 26, 31, 43, 86, 100, 192, 220, 384, 768, 1000]


@pytest.mark.parametrize("n", SHORT)
def test_short_axes(n):
    check_axis(n, n, 11)


@pytest.mark.parametrize(("n", "kept"), [(1024, 512), (1024, 341), (768, 192), (2048, 256), (768, 1), (999, 100)])
def test_cropped_axes(n, kept):
    """Shares of 1/2, 1/4 and 1/8, and less, with tails."""
    check_axis(n, kept, 11)


# Real weight sizes and the longest that fits.
@pytest.mark.parametrize(
    ("n", "kept"),
    [(4096, 512), (8192, 1024), (8192, 8192), (11008, 2752), (13824, 13824), (14336, 7168), (18944, 2000),
     (28672, 28672), (32768, 4096)],
)  # fmt: skip
def test_long_axes(n, kept):
    check_axis(n, kept, 3)


# Through memory: large primes, odd and even, and smooth lengths that do not fit.
@pytest.mark.parametrize("n", [47, 94, 30522, 50257, 65536, 128256, 151936])
def test_axes_through_memory(n):
    check_axis(n, max(1, n // 2 + 1), 2, tolerance=5e-7)


@pytest.mark.parametrize("n", [24, 384, 1000, 4096, 94])
def test_float64(n):
    check_axis(n, n // 2, 5, kind=F64)


@pytest.mark.parametrize("norm", ["backward", "forward"])
@pytest.mark.parametrize("n", [26, 31])
def test_norms(n, norm):
    for direction in (FORWARD, INVERSE):
        x = randn(5, n)
        out, _ = axis(x, direction, n, n, norm=norm)
        assert_matches(out, exact(x, direction, (n,), (n,), norm), dtype=torch.float32, lanes=True)


@pytest.mark.parametrize("kind", [F16, BF16, F32, F64])
@pytest.mark.parametrize("out_kind", [F16, BF16, F32, F64])
@pytest.mark.parametrize("shift", [0, 1])
def test_types(kind, out_kind, shift):
    """Aligned, where four neighbours are moved at once, and one element off."""
    n = 384
    for direction in (FORWARD, INVERSE):
        x = torch.full((6, n + 8), float("nan"), dtype=TORCH[kind])[:, 4 + shift : n + 4 + shift]
        x[:] = randn(6, n, kind=kind)
        out, _ = axis(x, direction, n, n, out_kind=out_kind)
        expected = exact(x, direction, (n,), (n,), "ortho")
        tight = 2e-14 if F64 in (kind, out_kind) and out_kind == F64 else None
        assert_matches(out, expected, dtype=TORCH[out_kind], lanes=True, tolerance=tight)


@pytest.mark.parametrize("direction", [FORWARD, INVERSE])
@pytest.mark.parametrize("n", [94, 1000, 4096])
def test_any_order_of_threads_gives_the_same_bits(n, direction):
    x = randn(9, n)
    results = [axis(x, direction, n, n, seed=seed)[0] for seed in (0, 1, 2)]
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


def test_nan_stays_in_its_lane():
    x = randn(9, 384)
    x[4, 100] = float("nan")
    for direction in (FORWARD, INVERSE):
        out, _ = axis(x, direction, 384, 384)
        assert out[4].isnan().all()
        assert not out[[0, 1, 2, 3, 5, 6, 7, 8]].isnan().any()


@pytest.mark.parametrize(
    ("size", "there"), [((384, 192), (100, 50)), ((100, 384), (384, 384)), ((94, 26), (94, 26)), ((768, 31), (500, 31))]
)
def test_resize(size, there):
    """Longer, shorter, and with an axis that goes through memory."""
    (m, n), (rows, columns) = size, there
    kept = (max(1, min(m, rows) // 2), min(n, columns))
    x, out = randn(m, n), torch.full((rows, columns), float("nan"))
    names = execute(
        lambda workspace: _C.cuda_matrix_launches(
            RESIZE, [m, n, *kept, rows, columns], [n, 1, columns, 1], [F32] * 3, "ortho", [x.data_ptr()],
            [out.data_ptr()], [], workspace, H200,
        ),
        x, out, 1,
    )  # fmt: skip
    assert_matches(out, exact(x, RESIZE, there, kept, "ortho"), dtype=torch.float32)
    if m != 94:
        assert [name.split("_")[1] for name in names] == ["forward", "resize", "inverse"]


def test_more_matrices_than_one_launch_takes():
    count, n = 70, 16
    x, out = randn(count, n, n), torch.full((count, 5, 4), float("nan"))
    names = execute(
        lambda workspace: _C.cuda_matrix_launches(
            FORWARD, [n, n, 5, 4, 0, 0], [n, 1, 4, 1], [F32] * 3, "ortho", [a.data_ptr() for a in x],
            [a.data_ptr() for a in out], [], workspace, H200,
        ),
        x, out, 0,
    )  # fmt: skip
    assert len(names) == 4
    assert_matches(out, exact(x, FORWARD, (n, n), (5, 4), "ortho"), dtype=torch.float32)


def test_batch_axes_that_cannot_be_merged():
    base = randn(3, 4, 5, 16, 16)
    x = base[:, ::2, :, :, :].permute(2, 0, 1, 3, 4)
    out = torch.full(x.shape, float("nan"))
    batch = [(s, a, b) for s, a, b in zip(x.shape[:3], x.stride()[:3], out.stride()[:3], strict=True)]
    execute(
        lambda workspace: _C.cuda_matrix_launches(
            FORWARD, [16, 16, 16, 16, 0, 0], [16, 1, 16, 1], [F32] * 3, "ortho", [x.data_ptr()], [out.data_ptr()],
            batch, workspace, H200,
        ),
        x, out, 0,
    )  # fmt: skip
    assert_matches(out, exact(x, FORWARD, (16, 16), (16, 16), "ortho"), dtype=torch.float32)
