"""The CUDA engine's spectral loss against float64, on the CPU: every step under the emulator's checks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from emulate import H200, Buffer, run
from front_kernels import _C, reference

F16, BF16, F32, F64 = range(4)
TORCH = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
SMALL = [1, *H200[1:]]


def exact(x: Tensor, k: tuple[int, int], standardize: bool, decay) -> tuple[float, Tensor]:
    wide = x.double().requires_grad_()
    loss = reference.spectral_loss(wide, k, standardize=standardize, decay=decay)
    return loss.item(), torch.autograd.grad(loss, wide)[0]


def spectral(xs, grads, k, *, standardize, decay=None, scale=1.0, seed=0, hardware=SMALL):
    """Losses; grads are added to."""
    compute = F64 if xs[0].dtype == torch.float64 else F32
    like = grads[0] if grads else xs[0]
    types = TORCH.index(xs[0].dtype), compute, TORCH.index(like.dtype)
    losses = np.full(len(xs), np.nan)

    def make(workspace: int):
        return _C.cuda_spectral_launches(
            (*xs[0].shape, *k), (*xs[0].stride(), *like.stride()), types, [x.data_ptr() for x in xs],
            [g.data_ptr() for g in grads], decay or (0.0, 0.0), standardize, scale, losses.ctypes.data, workspace,
            hardware,
        )  # fmt: skip

    _, size = make(0)
    workspace = np.full(max(size, 8) // 8, np.nan)
    launches, _ = make(workspace.ctypes.data)
    memory = [Buffer(workspace, written=True, filled=False), Buffer(losses, written=True, filled=False)]
    for tensor, written in [*((x, False) for x in xs), *((g, True) for g in grads)]:
        raw = torch.empty(0, dtype=torch.uint8).set_(tensor.untyped_storage()).numpy()
        memory.append(Buffer(raw, written=written))
    for found in run(launches, memory, seed=seed):
        assert found.total == 0, found
    return losses, [launch["name"] for launch in launches]


def check(xs, k, *, grad_dtype=None, limit=1e-5, decay=None, standardize=True, layout=lambda t: t, **options):
    grads = [layout(torch.ones(x.shape, dtype=grad_dtype or x.dtype)) for x in xs]
    losses, names = spectral(xs, grads, k, standardize=standardize, decay=decay, scale=0.5, **options)
    for x, grad, loss in zip(xs, grads, losses, strict=True):
        value, expected = exact(x, k, standardize, decay)
        assert loss == pytest.approx(value, rel=limit)
        found = (grad.double() - 1) / 0.5
        scale = 2 * x.double().norm() / (x.double().std() ** 2 if standardize else 1)
        assert (found - expected).norm() <= limit * scale
    return names


def randn(*shape: int, kind: int = F32, mean: float = 0.02, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape) * 0.1 + mean).to(TORCH[kind])


@pytest.mark.parametrize("decay", [None, (1.0, 2.0)])
@pytest.mark.parametrize("standardize", [False, True])
@pytest.mark.parametrize(
    ("shape", "k"),
    [((24, 64), (12, 32)), ((21, 96), (5, 96)), ((1, 48), (1, 24)), ((9, 15), (4, 8)), ((7, 1), (2, 1)),
     ((5, 22), (5, 11))],
)  # fmt: skip
def test_values(shape, k, standardize, decay):
    xs = [randn(*shape, seed=i) for i in range(3)]
    for seed in (0, 5):
        check(xs, k, standardize=standardize, decay=decay, seed=seed)


@pytest.mark.parametrize(
    ("kind", "grad_dtype", "limit"),
    [(BF16, torch.bfloat16, 8e-3), (BF16, torch.float32, 1e-5), (F16, torch.float16, 1e-3), (F16, torch.float32, 1e-5),
     (F64, torch.float64, 1e-12)],
)  # fmt: skip
def test_dtypes(kind, grad_dtype, limit):
    xs = [randn(24, 64, kind=kind, seed=i) for i in range(2)]
    grads_of_one = torch.finfo(grad_dtype).eps  # what rounding 1 + g costs
    check(xs, (12, 32), grad_dtype=grad_dtype, limit=max(limit, 4 * grads_of_one))
    names = check([randn(1, 48, kind=kind)], (1, 17), grad_dtype=grad_dtype, limit=max(limit, 4 * grads_of_one))
    assert len(names) == 1  # rows alone are one launch


def test_without_gradients():
    xs = [randn(24, 64, seed=i) for i in range(2)]
    losses, _ = spectral(xs, [], (6, 16), standardize=True)
    for x, loss in zip(xs, losses, strict=True):
        assert loss == pytest.approx(exact(x, (6, 16), True, None)[0], rel=1e-6)


def test_layouts():
    row = randn(100, 2)[:, :1].t()  # strides (1, 2): a row all the same
    assert row.stride() == (1, 2)
    assert len(check([row], (1, 30), layout=lambda t: t.clone(memory_format=torch.contiguous_format))) == 1
    tall = [randn(64, 24, seed=i).t() for i in range(2)]
    check(tall, (12, 32))
    check(tall, (12, 32), layout=lambda t: t.t().clone(memory_format=torch.contiguous_format).t())
    check([randn(24, 80, seed=i)[:, :64] for i in range(2)], (12, 32))
    check([randn(24, 131, seed=i)[:, 1:131:2] for i in range(2)], (12, 32))


def test_a_constant_matrix_has_no_loss():
    xs = [torch.full((24, 64), 3.7), torch.zeros(24, 64)]
    grads = [torch.ones(24, 64) for _ in xs]
    losses, _ = spectral(xs, grads, (12, 32), standardize=True)
    assert (losses == 0).all()
    assert all((g == 1).all() for g in grads)


@pytest.mark.parametrize("ratio", [1e3, 1e5])
def test_a_mean_far_above_the_deviation(ratio):
    x = randn(48, 64, mean=0.1 * ratio)
    x[0, 0] = 0
    x[0, 0] = x.mean() + 0.5
    grad = torch.zeros_like(x)
    losses, _ = spectral([x], [grad], (24, 32), standardize=True)
    value, expected = exact(x, (24, 32), True, None)
    assert losses[0] == pytest.approx(value, rel=1e-5)
    assert (grad.double() - expected).norm() <= 1e-5 * expected.norm()


def test_small_shares():
    for share, limit in ((1e-3, 1e-5), (1e-6, 1e-4), (1e-9, 2e-3)):
        c = torch.randn(64, 96, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        low = torch.zeros_like(c)
        low[:16, :24] = c[:16, :24]
        high = (c - low) * (share / (c - low).square().sum()).sqrt()
        x = reference.idct2(low * ((1 - share) / low.square().sum()).sqrt() + high).float()
        losses, _ = spectral([x], [], (16, 24), standardize=False)
        assert losses[0] == pytest.approx(exact(x, (16, 24), False, None)[0], rel=limit)


def test_many_matrices_go_in_parts():
    xs = [randn(8, 16, seed=i) for i in range(70)]
    names = check(xs, (4, 8))
    assert len(names) == 16  # eight launches for the first 64, and for the others


def test_a_row_that_does_not_fit_has_no_launches():
    launches, _ = _C.cuda_spectral_launches(
        (1, 50257, 1, 100), (50257, 1, 50257, 1), (F32, F32, F32), [16], [16], (0.0, 0.0), True, 1.0, 8, 0, H200
    )
    assert launches == []
