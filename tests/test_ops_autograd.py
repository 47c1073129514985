"""Derivatives: reverse and forward mode, any order, and torch.func."""

from __future__ import annotations

import pytest
import torch
from torch.autograd import forward_ad

import front_kernels as fk

NORMS = ("ortho", "backward", "forward", "adjoint:backward", "adjoint:forward")
SHAPE = (2, 4, 7)

CASES = {
    **{f"dct {n}": (lambda x, n=n: fk.dct(x, 3, norm=n)) for n in NORMS},
    **{f"dct dim 1 {n}": (lambda x, n=n: fk.dct(x, None, 1, norm=n)) for n in NORMS},
    **{f"idct {n}": (lambda x, n=n: fk.idct(x, 11, norm=n)) for n in NORMS},
    **{f"idct dim -2 {n}": (lambda x, n=n: fk.idct(x, 7, -2, norm=n)) for n in NORMS},
    **{f"dct2 {n}": (lambda x, n=n: fk.dct2(x, norm=n)) for n in NORMS},
    **{f"idct2 {n}": (lambda x, n=n: fk.idct2(x, norm=n)) for n in NORMS},
    **{f"dct_crop {n}": (lambda x, n=n: fk.dct_crop(x, (3, 6), norm=n)) for n in NORMS},
    **{f"idct_pad {n}": (lambda x, n=n: fk.idct_pad(x, (6, 9), norm=n)) for n in NORMS},
    **{f"dct_resize {n}": (lambda x, n=n: fk.dct_resize(x, (7, 4), k=(4, 4), norm=n)) for n in NORMS},
    "dct_crop.square": lambda x: torch.ops.front.dct_crop(x, 4),
    "idct_pad.square": lambda x: torch.ops.front.idct_pad(x, 9),
    "lowpass": lambda x: fk.lowpass(x, (3, 4)),
}


def sample(requires_grad: bool = True) -> torch.Tensor:
    return torch.randn(SHAPE, dtype=torch.float64, requires_grad=requires_grad)


@pytest.mark.parametrize("op", CASES.values(), ids=CASES.keys())
def test_gradcheck(op):
    assert torch.autograd.gradcheck(
        op, (sample(),), check_forward_ad=True, check_batched_grad=True, check_batched_forward_grad=True
    )


@pytest.mark.parametrize("op", CASES.values(), ids=CASES.keys())
def test_gradgradcheck(op):
    def nonlinear(x: torch.Tensor) -> torch.Tensor:
        return op(x).pow(3)

    assert torch.autograd.gradgradcheck(nonlinear, (sample(),), check_fwd_over_rev=True, check_rev_over_rev=True)


@pytest.mark.parametrize("op", CASES.values(), ids=CASES.keys())
def test_forward_mode_tangent_is_the_op_of_the_tangent(op):
    x, t = sample(requires_grad=False), sample(requires_grad=False)
    with forward_ad.dual_level():
        tangent = forward_ad.unpack_dual(op(forward_ad.make_dual(x, t))).tangent
    assert tangent is not None
    assert torch.equal(tangent, op(t))


@pytest.mark.parametrize("op", CASES.values(), ids=CASES.keys())
def test_torch_func(op):
    """Through the op and through its Jacobian written out: the same function for every transform of torch.func."""
    x, t = sample(requires_grad=False), sample(requires_grad=False)
    columns = torch.stack([op(e.reshape(SHAPE)).reshape(-1) for e in torch.eye(x.numel(), dtype=x.dtype)], dim=1)

    def energy(x: torch.Tensor) -> torch.Tensor:
        return op(x).pow(4).sum()

    def dense_energy(x: torch.Tensor) -> torch.Tensor:
        return (columns @ x.reshape(-1)).pow(4).sum()

    def same(transform) -> None:
        torch.testing.assert_close(transform(energy), transform(dense_energy), rtol=1e-9, atol=1e-9)

    same(lambda f: torch.func.grad(f)(x))
    same(lambda f: torch.func.hessian(f)(x))
    same(lambda f: torch.func.jacrev(torch.func.jacrev(f))(x))
    same(lambda f: torch.func.jacfwd(torch.func.jacfwd(f))(x))
    same(lambda f: torch.func.jacfwd(torch.func.jacfwd(lambda x: f(x**3)))(x))
    same(lambda f: torch.func.jvp(lambda a: torch.func.jvp(lambda x: f(x**3), (x,), (a,))[1], (t,), (x,)))
    same(lambda f: torch.func.jvp(torch.func.grad(f), (x,), (t,)))
    same(lambda f: torch.func.vjp(torch.func.grad(f), x)[1](t)[0])
    same(lambda f: torch.vmap(torch.func.grad(f))(torch.stack([x, t, x + t])))
    torch.testing.assert_close(torch.func.jvp(op, (x,), (t,))[1], op(t), rtol=0, atol=0)


@pytest.mark.parametrize("in_dim", [0, 1, 2, 3, -1])
@pytest.mark.parametrize("op", CASES.values(), ids=CASES.keys())
def test_vmap_is_a_loop(op, in_dim):
    x = torch.randn(3, *SHAPE, dtype=torch.float64).movedim(0, in_dim)
    expected = torch.stack([op(s) for s in x.unbind(in_dim)])
    torch.testing.assert_close(torch.vmap(op, in_dims=in_dim)(x), expected, rtol=0, atol=0)
    outer = torch.stack([x, 2 * x])
    nested = torch.vmap(torch.vmap(op, in_dims=in_dim))(outer)
    torch.testing.assert_close(nested, torch.stack([expected, 2 * expected]), rtol=1e-15, atol=0)


def test_vmap_does_not_see_the_batch_as_a_matrix_axis():
    with pytest.raises(ValueError, match=r"front::dct2: x must have at least 2 dimensions, got shape \[4\]"):
        torch.vmap(fk.dct2)(torch.randn(3, 4))
    with pytest.raises(ValueError, match="front::dct: dim must be between -1 and 0, got 1"):
        torch.vmap(lambda x: fk.dct(x, dim=1))(torch.randn(3, 4))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("out_dtype", [None, torch.float32, torch.float64], ids=str)
def test_gradients_have_the_dtype_of_the_input(dtype, out_dtype):
    x = torch.randn(20, 30).to(dtype).requires_grad_()
    y = fk.dct_crop(x, (7, 8), out_dtype=out_dtype, norm="backward")
    g = torch.randn(7, 8).to(y.dtype)
    (grad,) = torch.autograd.grad(y, x, g)
    assert grad.dtype == dtype
    expected = fk.reference.idct_pad(g.double(), (20, 30), norm="adjoint:backward")
    limit = {torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8, torch.float32: 5e-7}[dtype]
    assert (grad.double() - expected).norm() <= limit * expected.norm()


def test_a_training_step_goes_down_the_gradient():
    target = torch.randn(6, 6, dtype=torch.float64)
    w = torch.nn.Parameter(torch.randn(20, 24, dtype=torch.float64))
    before = (fk.dct_crop(w, 6) - target).square().sum()
    before.backward()
    with torch.no_grad():
        w -= 0.5 * w.grad  # the map has orthonormal rows: this step lands on the target
    assert (fk.dct_crop(w, 6) - target).square().sum() < 1e-25 < before


def test_no_graph_without_need():
    x = torch.randn(4, 4)
    assert fk.dct2(x).grad_fn is None
    with torch.no_grad():
        assert not fk.dct2(x.requires_grad_()).requires_grad
    with torch.inference_mode():
        assert fk.dct2(x).is_inference()
    assert type(fk.dct2(x).grad_fn).__name__ == "Dct2Backward"
    assert type(fk.idct_pad(x, 5).grad_fn).__name__ == "IdctPadBackward"


def test_gradient_of_a_product_with_a_frozen_branch():
    x, frozen = sample(), sample(requires_grad=False)
    (grad,) = torch.autograd.grad((fk.dct2(x) * fk.dct2(frozen)).sum(), x)
    torch.testing.assert_close(grad, frozen, rtol=1e-13, atol=1e-13)


def test_second_derivative_through_two_branches():
    x, frozen = sample(), sample(requires_grad=False)
    loss = (fk.dct2(x).pow(2) * fk.dct2(x) * fk.dct2(frozen)).sum()
    (grad,) = torch.autograd.grad(loss, x, create_graph=True)
    (second,) = torch.autograd.grad(grad.sum(), x)
    y, z = fk.dct2(x.detach()), fk.dct2(frozen)
    torch.testing.assert_close(second, fk.idct2(6 * y * z * fk.dct2(torch.ones_like(x))), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("op", CASES.values(), ids=CASES.keys())
def test_vmap_over_an_empty_batch(op):
    assert torch.vmap(op)(torch.randn(0, *SHAPE, dtype=torch.float64)).shape == (0, *op(sample()).shape)


def test_vmap_where_only_another_argument_is_batched():
    x, scale = sample(requires_grad=False), torch.randn(3, dtype=torch.float64)
    got = torch.vmap(lambda x, s: fk.dct2(x) * s, in_dims=(None, 0))(x, scale)
    torch.testing.assert_close(got, fk.dct2(x) * scale[:, None, None, None], rtol=0, atol=0)


@pytest.mark.parametrize("enabled", [True, False])
def test_autocast_leaves_the_ops_alone(enabled):
    x = torch.randn(12, 10, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
        y = fk.dct_crop(x, 5)
    assert y.dtype == torch.float32
    assert torch.equal(y, fk.dct_crop(x, 5))
    y.sum().backward()
    assert x.grad is not None
    assert x.grad.dtype == torch.float32
