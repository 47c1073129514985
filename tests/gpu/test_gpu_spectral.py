"""The spectral loss on a GPU against float64, under each engine."""

from __future__ import annotations

import pytest
import torch

import front_kernels as fk

if not torch.cuda.is_available():
    pytest.skip("no CUDA GPU: torch.cuda.is_available() is false", allow_module_level=True)

GPU = torch.device("cuda", 0)


def exact(x: torch.Tensor, k: tuple[int, int], standardize: bool, decay) -> tuple[float, torch.Tensor]:
    wide = x.double().cpu().requires_grad_()
    loss = fk.reference.spectral_loss(wide, k, standardize=standardize, decay=decay)
    return loss.item(), torch.autograd.grad(loss, wide)[0].to(GPU)


@pytest.fixture(params=["cuda", "triton"], autouse=True)
def engine(request):
    if request.param not in fk.engines.available():
        pytest.skip(f"there is no engine {request.param} in this build or installation")
    with fk.set_engine(request.param):
        yield


@pytest.mark.parametrize("decay", [None, (1.0, 2.0)])
@pytest.mark.parametrize("standardize", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize(("shape", "k"), [((384, 1536), (96, 100)), ((384, 1536), (192, 768)), ((131, 257), (40, 7))])
def test_lists(shape, k, dtype, standardize, decay):
    xs = [(torch.randn(shape, device=GPU) * 0.1 + 0.02).to(dtype) for _ in range(3)]
    xs += [torch.randn(1, 300, device=GPU).to(dtype), torch.ones(20, 20, device=GPU, dtype=dtype)]
    ks = [k] * 3 + [(1, 100), (5, 5)]
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    grads = [torch.ones(x.shape, dtype=wide, device=GPU) for x in xs]
    loss = fk.spectral_grad_many_(grads, xs, ks, 0.5, standardize=standardize, decay=decay)
    limit = 1e-11 if dtype == torch.float64 else 2e-5
    total = 0.0
    for x, own, grad in zip(xs[:4], ks, grads, strict=False):
        value, expected = exact(x, own, standardize, decay)
        total += value
        found = (grad.double() - 1) / 0.5
        scale = 2 * x.double().norm() / (x.double().std() ** 2 if standardize else 1)
        assert (found - expected).norm() <= limit * scale
    assert loss.item() == pytest.approx(total, rel=limit)
    assert (grads[4] == 1).all()


@pytest.mark.parametrize(("share", "limit"), [(1e-3, 1e-5), (1e-6, 1e-4), (1e-9, 2e-3)])
def test_small_shares(share, limit):
    c = torch.randn(512, 384, dtype=torch.float64)
    low = torch.zeros_like(c)
    low[:96, :96] = c[:96, :96]
    high = (c - low) * (share / (c - low).square().sum()).sqrt()
    x = fk.reference.idct2(low * ((1 - share) / low.square().sum()).sqrt() + high).float().to(GPU)
    expected, _ = exact(x, (96, 96), False, None)
    assert fk.spectral_loss(x, (96, 96)).item() == pytest.approx(expected, rel=limit)


def of_two_layouts() -> list[torch.Tensor]:
    return [*(torch.randn(384, 384, device=GPU) for _ in range(3)), torch.randn(384, 384, device=GPU).t()]


def test_nothing_waits_for_the_device():
    xs = of_two_layouts()
    grads = [torch.zeros_like(x) for x in xs]
    fk.spectral_grad_many_(grads, xs, [64] * 4, 1.0, standardize=True)
    torch.cuda.set_sync_debug_mode("error")
    try:
        fk.spectral_grad_many_(grads, xs, [64] * 4, 1.0, standardize=True)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_in_a_cuda_graph():
    xs = of_two_layouts()
    grads = [torch.zeros_like(x) for x in xs]
    expected = [torch.zeros_like(x) for x in xs]
    loss = fk.spectral_grad_many_(expected, xs, [64] * 4, 1.0, standardize=True)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = fk.spectral_grad_many_(grads, xs, [64] * 4, 1.0, standardize=True)
    for grad in grads:
        grad.zero_()
    graph.replay()
    torch.cuda.synchronize()
    assert captured.item() == loss.item()
    for grad, each in zip(grads, expected, strict=True):
        assert torch.equal(grad, each)


def test_gradients_that_share_memory_are_added_to_one_after_the_other():
    xs = [torch.randn(96, 96, device=GPU) for _ in range(3)]
    grad, apart = torch.zeros(96, 96, device=GPU), [torch.zeros(96, 96, device=GPU) for _ in xs]
    fk.spectral_grad_many_([grad] * 3, xs, [40] * 3, 1.0)
    fk.spectral_grad_many_(apart, xs, [40] * 3, 1.0)
    torch.testing.assert_close(grad, sum(apart))
    with pytest.raises(ValueError, match=r"grads\[1\] must not share memory with xs\[1\]"):
        fk.spectral_grad_many_([apart[0], xs[1]], xs[:2], [40] * 2, 1.0)


def test_stacks_with_tied_layers():
    w = torch.randn(64, 96, device=GPU)
    grad, apart = torch.zeros_like(w), [torch.zeros_like(w) for _ in range(2)]
    fk.spectral_stack_grad_([grad, grad], [w, w], (2, 20, 20), 1.0, standardize=True)
    fk.spectral_stack_grad_(apart, [w, w], (2, 20, 20), 1.0, standardize=True)
    torch.testing.assert_close(grad, apart[0] + apart[1])


@pytest.mark.parametrize("shape", [(96, 64), (3, 96, 64), (1, 300)])
def test_backward_is_the_in_place_form(shape):
    x = torch.randn(shape, device=GPU, requires_grad=True)
    k = (1, 100) if shape[0] == 1 else (40, 30)
    (3 * fk.spectral_loss(x, k, standardize=True)).backward()
    grad = torch.zeros_like(x)
    fk.spectral_grad_many_([grad], [x.detach()], [k], 3.0, standardize=True)
    torch.testing.assert_close(x.grad, grad)


@pytest.mark.parametrize("ratio", [1e3, 1e5])
def test_a_mean_far_above_the_deviation(ratio):
    for k in (32, 190):
        x = torch.randn(384, 384, device=GPU) + ratio
        grad = torch.zeros_like(x)
        loss = fk.spectral_grad_many_([grad], [x], [k], 1.0, standardize=True)
        value, expected = exact(x, (k, k), True, None)
        assert loss.item() == pytest.approx(value, rel=2e-5)
        assert (grad - expected).norm() <= 2e-5 * expected.norm()
