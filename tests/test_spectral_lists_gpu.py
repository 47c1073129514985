"""Lists of the spectral loss on a GPU that is not there: what is one op of the CUDA engine, what goes by way of the
halves, and that every matrix is taken once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

import front_kernels as fk
from fake_gpu import FakeGpu, installed
from front_kernels import _C

pytestmark = pytest.mark.skipif(not _C.build_info()["cuda"], reason="this build has no CUDA engine")

ONE_OP, BY_OPS, FUSED = "one op", "halves by ops", "halves by Triton"
# What an H200's automatic engine takes each of these for: the CUDA engine's one op, its ops where a row goes through
# memory, and products where few coefficients of 16-bit numbers are kept.
MATRICES: list[tuple[str, tuple[int, ...], tuple[int, int], torch.dtype]] = [
    (ONE_OP, (24, 64), (12, 32), torch.float32),
    (FUSED, (334, 334), (16, 16), torch.bfloat16),
    (BY_OPS, (64, 3008), (60, 3000), torch.float32),
    (ONE_OP, (24, 64), (12, 32), torch.bfloat16),
    (ONE_OP, (2, 24, 64), (12, 32), torch.float32),
    (ONE_OP, (1, 48), (1, 24), torch.float32),
    (FUSED, (334, 334), (16, 16), torch.bfloat16),
    (BY_OPS, (3, 64, 3008), (60, 3000), torch.float32),
    (ONE_OP, (0, 24, 64), (12, 32), torch.float32),
]


@pytest.fixture(scope="module", autouse=True)
def fake() -> Iterator[None]:
    with installed():
        yield


def drawn(which: Sequence[int]) -> tuple[list[Tensor], list[tuple[int, int]]]:
    """Of MATRICES, and ks."""
    xs = [(torch.randn(MATRICES[i][1]) * 0.1 + 0.02).to(MATRICES[i][3]) for i in which]
    return xs, [MATRICES[i][2] for i in which]


OPS = {"_cuda_spectral_": ONE_OP, "_spectral_crop": FUSED, "dct_crop": BY_OPS}


def ways_of(gpu: FakeGpu) -> set[str]:
    return {way for op, way in OPS.items() if op in gpu.front}


def close(found: Tensor, expected: Tensor) -> None:
    assert found.shape == expected.shape
    if not found.numel():
        return
    wide = expected.float() - 1
    eps = torch.finfo(expected.dtype).eps
    assert (found.float() - 1 - wide).abs().max() <= (2e-5 + 8 * eps) * max(1.0, wide.abs().max().item())


def differentiated(which: Sequence[int], **options: Any) -> FakeGpu:
    """spectral_grad_many_ on the GPU, compared with the CPU's."""
    xs, ks = drawn(which)
    expected = [torch.ones_like(x) for x in xs]
    loss = fk.spectral_grad_many_(expected, xs, ks, 0.5, **options)
    gpu = FakeGpu()
    with gpu:
        grads = [gpu.tensor(torch.ones_like(x)) for x in xs]
        there = fk.spectral_grad_many_(grads, [gpu.tensor(x) for x in xs], ks, 0.5, **options)
        gpu_loss = there.item()
    assert gpu_loss == pytest.approx(loss.item(), rel=1e-5)
    for grad, own in zip(grads, expected, strict=True):
        close(grad.inner, own)
    return gpu


@pytest.mark.parametrize("i", range(len(MATRICES) - 1))
def test_each_goes_its_way(i: int) -> None:
    assert ways_of(differentiated([i], standardize=True)) == {MATRICES[i][0]}


@pytest.mark.parametrize("decay", [None, (1.0, 2.0)])
@pytest.mark.parametrize("standardize", [False, True])
@pytest.mark.parametrize("which", [range(9), [1, 0], [0, 2], [2, 1], [8, 1, 8, 0]], ids=str)
def test_mixed_lists(which: Sequence[int], standardize: bool, decay: tuple[float, float] | None) -> None:
    gpu = differentiated(which, standardize=standardize, decay=decay)
    assert ways_of(gpu) == {MATRICES[i][0] for i in which if 0 not in MATRICES[i][1]}
    assert gpu.reads == {"_local_scalar_dense": 1}  # the loss, by this test


def test_mixed_lists_without_gradients_and_under_autograd() -> None:
    xs, ks = drawn(range(8))
    scale = torch.tensor(0.5)
    flat = [n for k in ks for n in k]
    gpu = FakeGpu()
    with gpu:
        there = [gpu.tensor(x) for x in xs]
        loss = fk.spectral_loss_many(there, ks, standardize=True).item()
        grads = torch.ops.front._spectral_grad_many(gpu.tensor(scale), there, flat, standardize=True)
    assert loss == pytest.approx(fk.spectral_loss_many(xs, ks, standardize=True).item(), rel=1e-5)
    expected = torch.ops.front._spectral_grad_many(scale, xs, flat, standardize=True)
    for grad, own in zip(grads, expected, strict=True):
        close(grad.inner + 1, own + 1)


@pytest.mark.parametrize("order", [1, -1])
def test_gradients_that_share_memory(order: int) -> None:
    """One gradient, of a matrix in the one op and, transposed, of one by halves."""
    xs = [torch.randn(3008, 64) * 0.1, torch.randn(64, 3008) * 0.1][::order]
    ks = [(3000, 60), (60, 3000)][::order]
    expected = torch.ones(3008, 64)
    fk.spectral_grad_many_([expected, expected.t()][::order], xs, ks, 0.5)
    gpu = FakeGpu()
    with gpu:
        grad = gpu.tensor(torch.ones(3008, 64))
        fk.spectral_grad_many_([grad, grad.t()][::order], [gpu.tensor(x) for x in xs], ks, 0.5)
    assert ways_of(gpu) == {ONE_OP, BY_OPS}
    close(grad.inner, expected)


def test_a_gradient_that_is_an_x_is_refused_before_anything_is_changed() -> None:
    xs, ks = drawn([0, 1])
    gpu = FakeGpu()
    with gpu:
        there = [gpu.tensor(x) for x in xs]
        first = gpu.tensor(torch.ones(24, 64))
        with pytest.raises(ValueError, match=r"grads\[1\] must not share memory with xs\[1\]"):
            fk.spectral_grad_many_([first, there[1]], there, ks, 1.0)
    assert (first.inner == 1).all()  # type: ignore[attr-defined]


def forced(lanes: int) -> list[int]:
    """A plan of rows of 8192 with as many lanes at once: of eight, more than shared memory holds."""
    return [8192, 8, 4, lanes, lanes, 128, 1, 0, 1]


def test_a_plan_that_is_forced_later_counts() -> None:
    """What was decided for a layout is decided anew when the planner is told another plan, and when that is over."""
    radices, lanes_in_fours, x = [16, 16, 16], 1, torch.randn(16, 8192) * 0.1

    def ways() -> set[str]:
        gpu = FakeGpu()
        with gpu, fk.set_engine("cuda"):
            grad = gpu.tensor(torch.zeros_like(x))
            fk.spectral_grad_many_([grad], [gpu.tensor(x)], [(2, 1024)], 1.0)
        return ways_of(gpu)

    assert ways() == {ONE_OP}
    torch.ops.front._cuda_force_plan(forced(8), radices, lanes_in_fours)
    try:
        assert ways() == {BY_OPS}
    finally:
        torch.ops.front._cuda_force_plan(forced(8), [], lanes_in_fours)
    assert ways() == {ONE_OP}
