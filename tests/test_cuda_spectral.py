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


def emulated(make, losses, xs, grads, seed=None, more=()) -> list[str]:
    """Runs what make(workspace) says under the emulator's checks; names of the launches."""
    _, size = make(0)
    workspace = np.full(max(size, 8) // 8, np.nan)
    launches, _ = make(workspace.ctypes.data)
    memory = [Buffer(workspace, written=True, filled=False), Buffer(losses, written=True, filled=False), *more]
    storages = {t.untyped_storage().data_ptr(): (t, written) for some, written in ((xs, 0), (grads, 1)) for t in some}
    for tensor, written in storages.values():
        raw = torch.empty(0, dtype=torch.uint8).set_(tensor.untyped_storage()).numpy()
        memory.append(Buffer(raw, written=bool(written)))
    for found in run(launches, memory, seed=seed):
        assert found.total == 0, found
    return [launch["name"] for launch in launches]


def spectral(xs, grads, k, *, standardize, decay=None, scale=1.0, seed=None, hardware=SMALL, scale_at=None):
    """Losses; grads are added to."""
    compute = F64 if xs[0].dtype == torch.float64 else F32
    like = grads[0] if grads else xs[0]
    types = TORCH.index(xs[0].dtype), compute, TORCH.index(like.dtype)
    losses = np.full(len(xs), np.nan)

    def make(workspace: int):
        return _C.cuda_spectral_launches(
            (*xs[0].shape, *k), (*xs[0].stride(), *like.stride()), types, [x.data_ptr() for x in xs],
            [g.data_ptr() for g in grads], decay or (0.0, 0.0), standardize, scale, losses.ctypes.data, workspace,
            hardware, 0 if scale_at is None else scale_at.ctypes.data,
        )  # fmt: skip

    more = [] if scale_at is None else [Buffer(scale_at)]
    return losses, emulated(make, losses, xs, grads, seed, more)


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
    xs = [randn(8, 16, seed=i) for i in range(130)]
    names = check(xs, (4, 8))
    assert len(names) == 16  # eight launches for the first 128, and for the others


def test_a_row_that_does_not_fit_has_no_launches():
    launches, _ = _C.cuda_spectral_launches(
        (1, 50257, 1, 100), (50257, 1, 50257, 1), (F32, F32, F32), [16], [16], (0.0, 0.0), True, 1.0, 8, 0, H200
    )
    assert launches == []


def test_a_factor_of_the_scale_on_the_device():
    """Of matrices, and of single rows, which are another kernel."""
    factor = np.array([0.25])
    for shape, k in (((24, 64), (12, 32)), ((1, 48), (1, 24))):
        x = randn(*shape)
        grads = [torch.zeros(shape) for _ in range(3)]
        losses = [
            spectral([x], [grads[0]], k, standardize=True, scale=2.0)[0],
            spectral([x], [grads[1]], k, standardize=True, scale=8.0, scale_at=factor)[0],
            spectral([x], [grads[2]], k, standardize=True, scale=2.0, scale_at=np.ones(1))[0],
        ]
        assert losses[0] == losses[1] == losses[2]  # it is the gradient's alone
        assert grads[0].any()
        assert torch.equal(grads[0], grads[1])
        assert torch.equal(grads[0], grads[2])


def listed(xs, grads, ks, *, apart=True, scale=1.0, seed=None):
    """Losses and names of the launches for matrices of any shapes and layouts, standardised."""
    losses = np.full(len(xs), np.nan)
    matrices = []
    for i, (x, k) in enumerate(zip(xs, ks, strict=True)):
        grad = grads[i] if grads else x
        compute = F64 if x.dtype == torch.float64 else F32
        types = TORCH.index(x.dtype), compute, TORCH.index(grad.dtype)
        address = grad.data_ptr() if grads else 0
        matrices.append(((*x.shape, *k), (*x.stride(), *grad.stride()), types, x.data_ptr(), address))

    def make(workspace: int):
        return _C.cuda_spectral_list_launches(
            matrices, apart, (0.0, 0.0), True, scale, losses.ctypes.data, workspace, SMALL
        )

    return losses, emulated(make, losses, xs, grads, seed)


@pytest.mark.parametrize(("count", "size", "kept"), [(16, (256, 18944), (8, 9472)), (16, (64, 13824), (64, 13824))])
def test_many_that_one_by_one_fit_shared_memory_are_taken_so(count, size, kept):
    """Plans for many rows take more rows per block."""
    matrix = (*size, *kept), (size[1], 1, size[1], 1), (F32, F32, F32), 1 << 40, 1 << 41

    def launches(number: int) -> list[str]:
        found, _ = _C.cuda_spectral_list_launches([matrix] * number, True, (0.0, 0.0), True, 1.0, 0, 0, H200)
        assert all(launch["shared_bytes"] <= H200[1] for launch in found)
        return [launch["name"] for launch in found]

    assert launches(count) == launches(1) * count


def assert_exact(xs, grads, ks, losses, limit=1e-5) -> None:
    """Gradients of 0.5 times the loss on top of ones; losses in any order."""
    values = []
    for x, grad, k in zip(xs, grads, ks, strict=True):
        value, expected = exact(x, k, True, None)
        values.append(value)
        found = (grad.double() - 1) / 0.5
        rounding = 4 * torch.finfo(grad.dtype).eps  # of 1 + g
        assert (found - expected).norm() <= max(limit, rounding) * 2 * x.double().norm() / x.double().std() ** 2
    assert sorted(losses) == pytest.approx(sorted(values), rel=limit)


def mixed() -> tuple[list[Tensor], list[Tensor], list[tuple[int, int]]]:
    """Matrices of which none but the batch's two, and two of the others, are alike in all that counts."""
    batch = randn(2, 24, 64, seed=3)
    xs = [
        randn(24, 64), *batch, randn(64, 24, seed=4).t(), randn(24, 131, seed=5)[:, 1:129:2], randn(1, 48, seed=6),
        randn(24, 64, kind=F16, seed=7), randn(24, 64, kind=F16, seed=8), randn(24, 64, kind=BF16, seed=9),
        randn(24, 64, kind=F16, seed=10), randn(24, 64, seed=11), randn(24, 64, kind=F64, seed=12),
    ]  # fmt: skip
    ks = [(12, 32) if x.shape[0] > 1 else (1, 24) for x in xs]
    ks[10] = (12, 31)
    grads = [torch.ones(x.shape, dtype=x.dtype) for x in xs]
    grads[9] = grads[9].float()
    return xs, grads, ks


def test_lists_of_different_matrices():
    """A batch, several layouts, types and k in one list, in one order and another."""
    for order in (1, -1):
        xs, grads, ks = (each[::order] for each in mixed())
        losses, names = listed(xs, grads, ks, scale=0.5, seed=3)
        assert_exact(xs, grads, ks, losses)
        # Eight launches for those of one kind, but one for a row: float32 as it lies (with the batch), by columns, with
        # gaps, of another k; float16 with gradients of its own and of float32; bfloat16; float64.
        assert len(names) == 8 * 8 + 1


def test_lists_without_gradients():
    xs, _, ks = mixed()
    losses, _ = listed(xs, [], ks)
    assert sorted(losses) == pytest.approx(sorted(exact(x, k, True, None)[0] for x, k in zip(xs, ks, strict=True)))


def test_gradients_that_share_memory_are_added_to_one_after_the_other():
    xs, ks = [randn(24, 64, seed=i) for i in range(3)], [(12, 32)] * 3
    shared, grads = torch.ones(24, 64), [torch.ones(24, 64) for _ in xs]
    together, names = listed(xs, grads, ks, scale=0.5)
    losses, shared_names = listed(xs, [shared] * 3, ks, apart=False, scale=0.5)
    assert (len(names), len(shared_names)) == (8, 24)
    assert sorted(losses) == sorted(together)
    torch.testing.assert_close(shared - 1, sum(grad - 1 for grad in grads), rtol=1e-5, atol=1e-4)


def planned(count: int, m: int, k1: int) -> tuple[list[str], int]:
    """Launches for `count` matrices of which nothing is computed, and the bytes of workspace."""
    launches, size = _C.cuda_spectral_launches(
        (m, 2 * k1, m // 2, k1), (2 * k1, 1, 2 * k1, 1), (F32, F32, F32), [64] * count, [64] * count, (0.0, 0.0), True,
        1.0, 64, 0, H200,
    )  # fmt: skip
    return [launch["name"] for launch in launches], size


def test_large_matrices_go_in_parts_of_the_workspace():
    """256 MiB hold the intermediate, m x k1, and the coefficients, half of that, of so many; of one, whatever it is."""
    limit, each = 256 << 20, 4 * 1024 * (2048 + 1024)
    fits = limit // each
    assert fits == 21
    names, size = planned(fits, 2048, 1024)
    assert len(names) == 8
    assert fits * each < size < limit + (2 << 20)  # and sums
    names, larger = planned(2 * fits + 1, 2048, 1024)
    assert len(names) == 3 * 8
    assert larger == size
    names, size = planned(2, 16384, 8192)
    assert len(names) == 2 * 8
    assert limit < 4 * 8192 * (16384 + 8192) < size < 4 * 8192 * (16384 + 8192) + (2 << 20)
