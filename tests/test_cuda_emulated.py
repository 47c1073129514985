"""The CUDA engine's device code against float64, on the CPU: every kernel family, under checks for races, bounds and
reads of what was never written, in shuffled orders of the threads. (test_engines.py does so through the ops.)
"""

from __future__ import annotations

import numpy as np
import pytest
import scipy.fft
import torch
from torch import Tensor

from compare import assert_matches
from emulate import H200, Buffer, compile_kernels, run
from front_kernels import _C

FORWARD, INVERSE, RESIZE = 0, 1, 2
F16, BF16, F32, F64 = range(4)
TORCH = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
SENTINEL = 77.0
# A few lanes keep one multiprocessor busy: plans are then those of large matrices, and a test need not be one.
SMALL = [1, *H200[1:]]
MANY = 8192  # lanes
# Relative L2 errors of one axis, a little above the largest that occur (2.3e-7 and 4.8e-16; of a convolution 2.7e-7).
LIMIT = {F32: 3e-7, F64: 1e-15}
LIMIT_THROUGH_MEMORY = 3.5e-7


def randn(*shape: int, kind: int = F32, seed: int = 0) -> Tensor:
    values = np.random.default_rng(seed).standard_normal(shape)
    return torch.from_numpy(values).to(TORCH[kind])


def exact(x: Tensor, direction: int, size: tuple[int, ...], kept: tuple[int, ...], norm: str = "ortho") -> Tensor:
    """Over the last axes, as many as `size` has; of the same `size` as x for the forward direction."""
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


def bytes_of(x: Tensor) -> np.ndarray:
    return torch.empty(0, dtype=torch.uint8).set_(x.untyped_storage()).numpy()


def execute(make, x: Tensor, out: Tensor, seed: int | None) -> list[str]:
    """Runs make(workspace address)'s launches; x may not be written unless it is `out`'s memory. The kernels' names."""
    _, size = make(0)
    workspace = np.full(max(size, 8) // 8, np.nan)
    launches, _ = make(workspace.ctypes.data)
    memory = [Buffer(workspace, written=True, filled=False), Buffer(bytes_of(out), written=True)]
    if x.untyped_storage().data_ptr() != out.untyped_storage().data_ptr():
        memory.append(Buffer(bytes_of(x)))
    for found in run(launches, memory, seed=seed):
        assert found.total == 0, found
    return [launch["name"] for launch in launches]


def types_of(x: Tensor, out: Tensor) -> list[int]:
    kinds = [TORCH.index(x.dtype), TORCH.index(out.dtype)]
    return [kinds[0], F64 if F64 in kinds else F32, kinds[1]]


def taken(out: Tensor) -> Tensor:
    """A copy of `out`, of whose memory nothing else may have changed."""
    result = out.clone()
    out[...] = SENTINEL
    everything = torch.empty(0, dtype=out.dtype).set_(out.untyped_storage())
    assert (everything == SENTINEL).all(), "written beside the output"
    return result


def axis(
    x: Tensor, direction: int, n: int, kept: int, *, norm="ortho", out_kind=None, seed=None, hardware=SMALL
) -> tuple[Tensor, list[str]]:
    """One axis of [lanes, .], into the middle of a tensor of sentinels."""
    lanes, length = x.shape[0], kept if direction == FORWARD else n
    dtype = x.dtype if out_kind is None else TORCH[out_kind]
    out = torch.full((lanes + 2, length + 6), SENTINEL, dtype=dtype)[1:-1, 4:-2]
    strides = [(lanes, x.stride(0), out.stride(0))]

    def make(workspace: int, direction: int = direction):
        return _C.cuda_axis_launches(
            direction, n, kept, [x.stride(1), 1], types_of(x, out), norm, x.data_ptr(), out.data_ptr(), strides,
            workspace, hardware,
        )  # fmt: skip

    compile_kernels([*make(0, FORWARD)[0], *make(0, INVERSE)[0]])  # most tests run both
    names = execute(make, x, out, seed)
    return taken(out), names


def matrices(
    x: Tensor, out: Tensor, direction: int, kept: tuple[int, int], *, norm="ortho", seed=None, hardware=SMALL
) -> list[str]:
    """[..., m, n], with whatever strides; the axes before are batch axes."""
    m, n = (out if direction == INVERSE else x).shape[-2:]
    there = out.shape[-2:] if direction == RESIZE else (0, 0)
    strides = [*x.stride()[-2:], *out.stride()[-2:]]
    batch = list(zip(x.shape[:-2], x.stride()[:-2], out.stride()[:-2], strict=True))
    return execute(
        lambda workspace: _C.cuda_matrix_launches(
            direction, [m, n, *kept, *there], strides, types_of(x, out), norm, [x.data_ptr()], [out.data_ptr()], batch,
            workspace, hardware,
        ),
        x, out, seed,
    )  # fmt: skip


def check_axis(
    n: int, kept: int, *, lanes: int | None = None, kind=F32, tolerance: float | None = None, hardware=SMALL
) -> None:
    """With more lanes than a block takes, and not a multiple of them, unless a block takes one."""
    real_bytes = 8 if kind == F64 else 4
    if lanes is None:
        lanes = 41 if n <= 200 else 11
        usual = _C.cuda_axis_plan(n, kept, real_bytes, MANY, H200)
        assert _C.cuda_axis_plan(n, kept, real_bytes, lanes, hardware) == usual, "not the plan of large matrices"
        assert lanes > usual["lanes"]
    for direction in (FORWARD, INVERSE):
        x = randn(lanes, n if direction == FORWARD else kept, kind=kind)
        out, _ = axis(x, direction, n, kept, seed=1, hardware=hardware)
        if n * lanes < 100_000:  # of larger ones others have a second order
            again, _ = axis(x, direction, n, kept, seed=2, hardware=hardware)
            assert torch.equal(again, out), "another order of the threads gives other bits"
        typical = 1.0 if direction == FORWARD else (kept / n) ** 0.5  # what a few coefficients may fall short of
        expected = exact(x, direction, (n,), (kept,))
        assert_matches(out, expected, dtype=TORCH[kind], tolerance=tolerance or LIMIT[kind], lanes=True, rms=typical)


# Lengths in shared memory: every radix, stages 1 to 4, odd and even, paired ends and not.
SHORT = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 16, 26, 31, 37, 43, 86, 100, 192, 220, 384, 1000]


@pytest.mark.parametrize("n", SHORT)
def test_short_axes(n):
    check_axis(n, n)


@pytest.mark.parametrize("share", [1, 2, 3, 4, 8, 16, 768])
def test_kept_shares(share):
    """Kernels are made for shares of 1/1 to 1/8, and keep fewer, down to one coefficient."""
    check_axis(768, 768 // share)


@pytest.mark.parametrize(("n", "kept"), [(1024, 341), (2048, 256), (999, 100), (94, 3), (100, 7), (192, 64)])
def test_cropped_axes(n, kept):
    check_axis(n, kept)


# Real weight sizes and the longest that fits.
LONG = [(4096, 512), (8192, 1024), (8192, 8192), (11008, 2752), (13824, 13824), (14336, 7168), (16384, 1024),
        (18944, 2000), (28672, 28672), (32768, 4096)]  # fmt: skip


@pytest.mark.parametrize(("n", "kept"), LONG)
def test_long_axes(n, kept):
    check_axis(n, kept)


@pytest.mark.parametrize(("n", "kept"), [(999, 100), (4096, 512), (8192, 1024), (11008, 2752)])
def test_few_lanes(n, kept):
    """Too few to fill the device with the plan of a large matrix: it spreads them over more blocks."""
    lanes = 11
    assert _C.cuda_axis_plan(n, kept, 4, lanes, H200)["lanes"] != _C.cuda_axis_plan(n, kept, 4, MANY, H200)["lanes"]
    check_axis(n, kept, lanes=lanes, hardware=H200)


@pytest.mark.parametrize("n", [13125, 19683, 32500])
def test_lengths_of_many_odd_factors(n):
    """Natively by smaller radices: the best ones want more registers than there are."""
    check_axis(n, n // 2 + 1, lanes=2)


# Through memory: large primes, odd and even, and smooth lengths that do not fit.
@pytest.mark.parametrize("n", [47, 94, 30522, 50257, 65536, 128256, 151936])
def test_axes_through_memory(n):
    check_axis(n, max(1, n // 2 + 1), lanes=2, tolerance=LIMIT_THROUGH_MEMORY)


@pytest.mark.parametrize(
    ("n", "kept"), [(9, 9), (24, 12), (384, 384), (1000, 500), (4096, 512), (8192, 8192), (13824, 13824)]
)
def test_float64(n, kept):
    check_axis(n, kept, kind=F64)


@pytest.mark.parametrize("n", [31, 94, 28672])
def test_float64_through_memory(n):
    """Primes above 19, and what does not fit."""
    check_axis(n, n, lanes=2, kind=F64)


@pytest.mark.parametrize("norm", ["backward", "forward", "adjoint:backward", "adjoint:forward"])
@pytest.mark.parametrize("n", [26, 31, 94])
def test_norms(n, norm):
    base, eye = norm.removeprefix("adjoint:"), np.eye(n)
    for direction in (FORWARD, INVERSE):
        # "adjoint:NAME" is the transpose of the other direction under NAME.
        other = (direction == FORWARD) == (norm == base)
        matrix = (scipy.fft.dct if other else scipy.fft.idct)(eye, axis=0, norm=base)
        x = randn(41, n)
        out, _ = axis(x, direction, n, n, norm=norm)
        expected = x.to(torch.float64) @ torch.from_numpy(matrix.T if norm == base else matrix)
        assert_matches(out, expected, dtype=torch.float32, lanes=True)


@pytest.mark.parametrize("kind", [F16, BF16, F32, F64])
@pytest.mark.parametrize("out_kind", [F16, BF16, F32, F64])
@pytest.mark.parametrize("shift", [0, 1])
def test_types(kind, out_kind, shift):
    """Aligned, where four neighbours are moved at once, and one element off."""
    n = 384
    for direction in (FORWARD, INVERSE):
        x = torch.full((11, n + 8), float("nan"), dtype=TORCH[kind])[:, 4 + shift : n + 4 + shift]
        x[:] = randn(11, n, kind=kind)
        out, _ = axis(x, direction, n, n, out_kind=out_kind)
        expected = exact(x, direction, (n,), (n,))
        limit = LIMIT[F64 if out_kind == F64 else F32]
        assert_matches(out, expected, dtype=TORCH[out_kind], lanes=True, tolerance=limit)


@pytest.mark.parametrize("direction", [FORWARD, INVERSE])
@pytest.mark.parametrize("n", [43, 94, 1000, 4096, 8192])
def test_any_order_of_threads_gives_the_same_bits(n, direction):
    x = randn(11, n)
    results = [axis(x, direction, n, n, seed=seed)[0] for seed in (0, 1, 2)]
    assert not results[0].isnan().any()
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


@pytest.mark.parametrize("n", [94, 384])
def test_nan_stays_in_its_lane(n):
    x = randn(11, n)
    x[4, 50] = float("nan")
    for direction in (FORWARD, INVERSE):
        out, _ = axis(x, direction, n, n)
        assert out[4].isnan().all()
        assert not out[torch.arange(11) != 4].isnan().any()


def test_nan_fills_its_matrix_and_no_other():
    x, out = randn(3, 40, 24), torch.full((3, 17, 11), SENTINEL)
    x[1, 39, 23] = float("nan")
    matrices(x, out, FORWARD, (17, 11))
    assert out[1].isnan().all()
    assert not out[[0, 2]].isnan().any()


# Views of sentinels, or of NaN: [rows, columns] -> a tensor of that shape.
LAYOUTS = {
    "rows with gaps": lambda base, m, n: base[2 : m + 2, 4 : n + 4],
    "columns": lambda base, m, n: base[2 : n + 2, 4 : m + 4].T,
    "one element off": lambda base, m, n: base[1 : m + 1, 3 : n + 3],
    "neither axis contiguous": lambda base, m, n: base[1 : 2 * m : 2, 2 : 3 * n : 3],
}


def laid_out(layout: str, m: int, n: int, value: float, kind: int) -> Tensor:
    return LAYOUTS[layout](torch.full((104, 124), value, dtype=TORCH[kind]), m, n)


@pytest.mark.parametrize("direction", [FORWARD, INVERSE, RESIZE])
@pytest.mark.parametrize("out_layout", LAYOUTS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout, out_layout, direction):
    """What lies between the elements of the output stays; what lies between those of the input is not used."""
    size, there, kept = (40, 24), (24, 40), (17, 11)
    shape = kept if direction == INVERSE else size
    result = {FORWARD: kept, INVERSE: size, RESIZE: there}[direction]
    for kind, out_kind in ((F32, F32), (BF16, F16)):
        x = laid_out(layout, *shape, float("nan"), kind)
        x[:] = randn(*shape, kind=kind)
        out = laid_out(out_layout, *result, SENTINEL, out_kind)
        matrices(x, out, direction, kept)
        assert_matches(taken(out), exact(x, direction, result if direction else size, kept), dtype=TORCH[out_kind])


@pytest.mark.parametrize("direction", [FORWARD, INVERSE, RESIZE])
@pytest.mark.parametrize("transposed", [False, True])
def test_in_place(direction, transposed):
    """The smaller side is a corner of the larger one: all of the input is read before any output is written."""
    m, n, kept = 40, 24, (17, 11)
    whole = randn(m, n).T.contiguous().T if transposed else randn(m, n)
    corner = whole[: kept[0], : kept[1]]
    before = whole.clone()
    x, out = {FORWARD: (whole, corner), INVERSE: (corner, whole), RESIZE: (whole, whole)}[direction]
    expected = exact(x, direction, (m, n), kept)
    matrices(x, out, direction, kept)
    assert_matches(out, expected, dtype=torch.float32)
    if direction == FORWARD:
        assert torch.equal(whole[kept[0] :], before[kept[0] :])
        assert torch.equal(whole[:, kept[1] :], before[:, kept[1] :])


@pytest.mark.parametrize(
    ("size", "there"), [((384, 192), (100, 50)), ((100, 384), (384, 384)), ((94, 26), (94, 26)), ((768, 31), (500, 31))]
)
def test_resize(size, there):
    """Longer, shorter, and with an axis that goes through memory."""
    kept = (max(1, min(size[0], there[0]) // 2), min(size[1], there[1]))
    x, outs, names = randn(*size), [], []
    for seed in (0, 1, 2):
        outs.append(torch.full(there, float("nan")))
        names = matrices(x, outs[-1], RESIZE, kept, seed=seed)
    assert_matches(outs[0], exact(x, RESIZE, there, kept), dtype=torch.float32)
    assert torch.equal(outs[0], outs[1])
    assert torch.equal(outs[0], outs[2])
    if size[0] != 94:
        assert [name.split("_")[1] for name in names] == ["forward", "resize", "inverse"]


def test_resize_in_double():
    x, out = randn(100, 48, kind=F64), torch.full((60, 48), float("nan"), dtype=torch.float64)
    names = matrices(x, out, RESIZE, (30, 20), seed=1)
    assert_matches(out, exact(x, RESIZE, (60, 48), (30, 20)), dtype=torch.float64)
    assert [name.split("_")[1] for name in names] == ["forward", "resize", "inverse"]


def test_resize_of_a_column_that_only_the_last_resort_fits():
    x, out = randn(27648, 2), torch.full((27648, 2), float("nan"))
    names = matrices(x, out, RESIZE, (3456, 2), seed=1)
    assert_matches(out, exact(x, RESIZE, (27648, 2), (3456, 2)), dtype=torch.float32)
    assert [name.split("_")[1] for name in names] == ["forward", "resize", "inverse"]


def test_more_matrices_than_one_launch_takes():
    count, n = 130, 16
    x, out = randn(count, n, n), torch.full((count, 5, 4), float("nan"))
    names = execute(
        lambda workspace: _C.cuda_matrix_launches(
            FORWARD, [n, n, 5, 4, 0, 0], [n, 1, 4, 1], [F32] * 3, "ortho", [a.data_ptr() for a in x],
            [a.data_ptr() for a in out], [], workspace, SMALL,
        ),
        x, out, 0,
    )  # fmt: skip
    assert len(names) == 4
    assert_matches(out, exact(x, FORWARD, (n, n), (5, 4)), dtype=torch.float32)


def test_more_matrices_through_memory_than_one_launch_takes():
    x, out = randn(130, 2, 47), torch.full((130, 2, 9), float("nan"))
    batch = x[::1, :1]  # every other row: a batch axis that is not merged with the lanes
    names = execute(
        lambda workspace: _C.cuda_matrix_launches(
            FORWARD, [1, 47, 1, 9, 0, 0], [47, 1, 9, 1], [F32] * 3, "ortho", [a.data_ptr() for a in batch],
            [a.data_ptr() for a in out[:, :1]], [(2, 47, 9)], workspace, SMALL,
        ),
        x, out, 0,
    )  # fmt: skip
    assert len(names) > 4
    assert_matches(out, exact(x, FORWARD, (47,), (9,)), dtype=torch.float32, lanes=True)


@pytest.mark.parametrize("direction", [FORWARD, INVERSE, RESIZE])
def test_batch_axes_that_cannot_be_merged(direction):
    x = randn(3, 4, 5, 16, 16)[:, ::2].permute(2, 0, 1, 3, 4)
    out = torch.full((5, 3, 4, 16, 20), SENTINEL)[:, :, ::2, :, 2:18]
    matrices(x, out, direction, (16, 16))
    assert_matches(taken(out), exact(x, direction, (16, 16), (16, 16)), dtype=torch.float32)


def test_lane_axes_that_cannot_be_merged():
    """Of one axis in the middle of a tensor: the two longest become lanes and batch, the others pointers."""
    x = randn(3, 4, 6, 26, 5)[:, ::2]
    out = torch.full((3, 4, 6, 26, 7), SENTINEL)[:, ::2, :, :, 1:6]
    lanes = [(x.shape[d], x.stride(d), out.stride(d)) for d in (0, 1, 2, 4)]
    for direction in (FORWARD, INVERSE):
        execute(
            lambda workspace, direction=direction: _C.cuda_axis_launches(
                direction, 26, 26, [x.stride(3), out.stride(3)], [F32] * 3, "ortho", x.data_ptr(), out.data_ptr(),
                lanes, workspace, SMALL,
            ),
            x, out, 1,
        )  # fmt: skip
        expected = exact(x.movedim(3, -1), direction, (26,), (26,))
        assert_matches(taken(out).movedim(3, -1), expected, dtype=torch.float32, lanes=True)


@pytest.mark.parametrize("direction", [FORWARD, INVERSE, RESIZE])
def test_empty_batches_launch_nothing(direction):
    sizes, strides = [16, 16, 16, 16, 16, 16], [16, 1, 16, 1]
    arguments = (direction, sizes, strides, [F32] * 3, "ortho", [64], [64])
    for batch in ([(0, 256, 256)], [(3, 256, 256), (0, 1, 1)]):
        assert _C.cuda_matrix_launches(*arguments, batch, 0, SMALL)[0] == []
    assert _C.cuda_axis_launches(0, 16, 16, [1, 1], [F32] * 3, "ortho", 64, 64, [(0, 16, 16)], 0, SMALL)[0] == []
