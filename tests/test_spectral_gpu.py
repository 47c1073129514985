"""What CUDA devices run for the spectral loss, called by hand on CPU tensors: against the CPU's fused form."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

import front_kernels as fk
from front_kernels import _spectral_gpu, _spectral_parts


@pytest.fixture
def halves(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The forms that go through the halves find those of the GPU."""

    class Halves:
        class _spectral_crop:  # noqa: N801, an op's name
            default = staticmethod(lambda xs, k, only_rows=False: _spectral_gpu.crop_by_ops(xs, k, only_rows))

        class _spectral_residual_:  # noqa: N801
            default = staticmethod(lambda *args: _spectral_gpu.residual_by_ops_(*args, False))

        dct, idct = torch.ops.front.dct, torch.ops.front.idct

    class Ops:
        front = Halves

    class Torch:
        ops = Ops

        def __getattr__(self, name: str) -> object:
            return getattr(torch, name)

    monkeypatch.setattr(_spectral_parts, "torch", Torch())
    return


def tensors(dtype: torch.dtype) -> tuple[list[Tensor], list[tuple[int, int]]]:
    xs = [(torch.randn(shape) * 0.1 + 0.3).to(dtype) for shape in ((30, 22), (30, 22), (1, 50), (2, 9, 14))]
    return [*xs, torch.full((6, 5), 0.3).to(dtype)], [(7, 8), (7, 8), (1, 20), (9, 5), (2, 2)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.usefixtures("halves")
def test_the_halves_of_the_gpu(dtype: torch.dtype) -> None:
    xs, ks = tensors(dtype)
    flat = [n for k in ks for n in k]
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    close = {"rtol": 1e-5, "atol": 1e-4} if wide == torch.float32 else {"rtol": 1e-11, "atol": 1e-11}
    for standardize, decay in itertools.product((False, True), (None, (1.0, 2.0))):
        fused, found = ([torch.ones(x.shape, dtype=wide) for x in xs] for _ in range(2))
        expected = fk.spectral_grad_many_(fused, xs, ks, 0.5, standardize=standardize, decay=decay)
        loss = _spectral_parts.list_loss(found, xs, flat, 0.5, standardize, decay)
        assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
        for a, b in zip(fused, found, strict=True):
            torch.testing.assert_close(a, b, **close)
        value = _spectral_gpu._loss_many(xs, flat, standardize=standardize, decay=decay)
        assert value.item() == pytest.approx(expected.item(), rel=1e-5)
        for grad, fuse in zip(
            _spectral_gpu._grad_many(torch.tensor(0.5), xs, flat, standardize=standardize, decay=decay),
            fused,
            strict=True,
        ):
            assert grad.dtype == dtype
            assert (grad.to(wide) - (fuse - 1)).abs().max() <= (1e-4 + 8 * torch.finfo(dtype).eps) * fuse.abs().max()


def test_rows_alone() -> None:
    xs = [torch.randn(9, 14, dtype=torch.float64) for _ in range(2)]
    for ours, theirs in zip(
        _spectral_gpu.crop_by_ops(xs, (9, 5), True), torch.ops.front._spectral_crop(xs, (9, 5), True), strict=True
    ):
        torch.testing.assert_close(ours, theirs)
    c = torch.ops.front._spectral_crop(xs, (9, 5), True)[0]
    terms = torch.rand(2, 4, dtype=torch.float64)
    grads = [[torch.ones_like(x) for x in xs] for _ in range(2)]
    ours = _spectral_gpu.residual_by_ops_(grads[0], xs, c, terms, True)
    theirs = torch.ops.front._spectral_residual_(grads[1], xs, c, terms, True)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(grads[0], grads[1])


def test_errors_name_the_tensor_also_after_one_like_it_was_right() -> None:
    xs, grads = ([torch.randn(6, 8) for _ in range(3)] for _ in range(2))
    _spectral_gpu._grad_many_(grads, xs, [2, 3] * 3, 1.0)
    with pytest.raises(ValueError, match=r"grads\[1\]'s dtype must be float32, got float16"):
        _spectral_gpu._grad_many_([grads[0], grads[1].half(), grads[2]], xs, [2, 3] * 3, 1.0)
    with pytest.raises(ValueError, match=r"ks\[4\] must be between 1 and 6"):
        _spectral_gpu._grad_many_(grads, xs, [2, 3, 2, 3, 7, 3], 1.0)
    with pytest.raises(ValueError, match=r"grads\[2\] must not share memory with xs\[2\]"):
        _spectral_gpu._grad_many_([grads[0], grads[1], xs[2]], xs, [2, 3] * 3, 1.0)


def test_the_second_half_adds_to_shared_gradients_one_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_spectral_gpu, "_fused", lambda *_: False)
    calls = []
    by_ops = _spectral_gpu.residual_by_ops_
    monkeypatch.setattr(_spectral_gpu, "residual_by_ops_", lambda *args: (calls.append(len(args[0])), by_ops(*args))[1])
    xs = [torch.randn(6, 8) for _ in range(2)]
    c, _ = _spectral_gpu.crop_by_ops(xs, (2, 3), False)
    terms = torch.rand(2, 4, dtype=torch.float64)
    shared, apart = torch.zeros(6, 8), [torch.zeros(6, 8) for _ in xs]
    squares = _spectral_gpu.residual_([shared, shared], xs, c, terms)
    torch.testing.assert_close(squares, _spectral_gpu.residual_(apart, xs, c, terms))
    torch.testing.assert_close(shared, apart[0] + apart[1])
    assert calls == [1, 1, 2]
    with pytest.raises(ValueError, match=r"grads\[1\] must not share memory with xs\[0\]"):
        _spectral_gpu.residual_([shared, xs[0]], xs, c, terms)


def test_a_scale_on_another_device_is_brought() -> None:
    x = torch.randn(6, 8)
    for scale in (torch.tensor(0.5), torch.tensor(0.5, dtype=torch.float64)):
        (grad,) = _spectral_gpu._grad_many(scale, [x], [2, 3])
        torch.testing.assert_close(grad, x - torch.ops.front.lowpass(x, [2, 3]))


def test_every_form_is_registered_for_cuda() -> None:
    own = "_spectral_grad_many", "_spectral_accumulate_"
    for name in ("spectral_loss", "spectral_loss_many", "spectral_grad_many_", *own):
        assert torch._C._dispatch_has_kernel_for_dispatch_key(f"front::{name}", "CUDA")
