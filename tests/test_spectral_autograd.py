"""Derivatives, transforms and graphs of the spectral loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend
from torch.fx.experimental.proxy_tensor import make_fx

import front_kernels as fk
from front_kernels import reference

F = torch.ops.front
K3 = (2, 3, 4)


def three(x: Tensor) -> list[Tensor]:
    return [x[0], x[1], x[0] * x[1]]


FORMS: dict[str, Callable[[Tensor, bool], Tensor]] = {
    "one": lambda x, s: fk.spectral_loss(x, (3, 4), standardize=s),
    "many": lambda x, s: fk.spectral_loss_many([x, x[0]], [(3, 4), 2], standardize=s),
    "decay": lambda x, s: fk.spectral_loss_many([x, x[0].t()], [(3, 4), (7, 4)], standardize=s, decay=(1.0, 2.0)),
    "stack": lambda x, s: fk.spectral_stack_loss(three(x), K3, standardize=s),
    "stack decay": lambda x, s: fk.spectral_stack_loss(three(x), K3, standardize=s, decay=(0.5, 1.0, 2.0)),
}
CASES = [
    pytest.param(form, s, id=f"{name}{' standardised' * s}") for name, form in FORMS.items() for s in (False, True)
]


def sample(requires_grad: bool = True) -> Tensor:
    return torch.randn(2, 4, 7, dtype=torch.float64, requires_grad=requires_grad)


@pytest.mark.parametrize(("form", "standardize"), CASES)
def test_gradcheck_of_any_order_and_mode(form: Callable[[Tensor, bool], Tensor], standardize: bool) -> None:
    def loss(x: Tensor) -> Tensor:
        return form(x, standardize)

    stacked = "stack" in str(form.__code__.co_names)
    assert torch.autograd.gradcheck(
        loss, (sample(),), check_forward_ad=True, check_batched_grad=not stacked, check_batched_forward_grad=True
    )
    assert torch.autograd.gradgradcheck(
        lambda x: loss(x).pow(2), (sample(),), check_fwd_over_rev=not stacked, check_rev_over_rev=True
    )


@pytest.mark.parametrize(("form", "standardize"), CASES)
def test_torch_func(form: Callable[[Tensor, bool], Tensor], standardize: bool) -> None:
    def loss(x: Tensor) -> Tensor:
        return form(x, standardize)

    x = sample()
    (expected,) = torch.autograd.grad(loss(x), x)
    torch.testing.assert_close(torch.func.grad(loss)(x.detach()), expected)
    xs = torch.randn(3, 2, 4, 7, dtype=torch.float64)
    torch.testing.assert_close(torch.func.vmap(loss)(xs), torch.stack([loss(x) for x in xs]))
    per_sample = torch.func.vmap(torch.func.grad(loss))(xs)
    torch.testing.assert_close(per_sample, torch.stack([torch.func.grad(loss)(x) for x in xs]))
    tangent = sample(False)
    _, forward = torch.func.jvp(loss, (x.detach(),), (tangent,))
    torch.testing.assert_close(forward, (expected * tangent).sum())


@pytest.mark.parametrize("standardize", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_the_autograd_form_is_the_in_place_form(dtype: torch.dtype, standardize: bool) -> None:
    xs = [(torch.randn(shape) + 0.2).to(dtype).requires_grad_() for shape in ((30, 40), (1, 50), (17, 8))]
    ks = [(10, 20), (1, 9), (8, 8)]
    loss = fk.spectral_loss_many(xs, ks, standardize=standardize, decay=(1.0, 1.0))
    (loss * 0.3).backward()
    grads = [torch.zeros_like(x) for x in xs]
    value = fk.spectral_grad_many_(grads, xs, ks, 0.3, standardize=standardize, decay=(1.0, 1.0))
    assert not value.requires_grad
    assert value.item() == pytest.approx(loss.item(), rel=1e-6)
    for x, grad in zip(xs, grads, strict=True):
        assert x.grad is not None
        assert x.grad.dtype == dtype
        torch.testing.assert_close(x.grad, grad)


def test_only_what_requires_grad_gets_one_and_create_graph_works() -> None:
    a, b = torch.randn(9, 7, dtype=torch.float64, requires_grad=True), torch.randn(9, 7, dtype=torch.float64)
    loss = fk.spectral_loss_many([a, b], [3, 4])
    (grad,) = torch.autograd.grad(loss, a, create_graph=True)
    torch.testing.assert_close(grad, 2 * (a - reference.lowpass(a, (3, 3))))
    (second,) = torch.autograd.grad(grad.square().sum(), a)
    torch.testing.assert_close(second, 4 * grad.detach())  # a projection: twice is once
    assert not fk.spectral_loss_many([b], [4]).requires_grad
    with torch.no_grad():
        assert not fk.spectral_loss(a, 3).requires_grad


def test_the_in_place_form_and_autograd() -> None:
    x = torch.randn(9, 7, requires_grad=True)
    grad = torch.zeros(9, 7)
    version = grad._version
    assert fk.spectral_grad_many_([grad], [x], [3], 1.0).grad_fn is None
    assert grad._version > version
    with pytest.raises(RuntimeError, match="grads must not require grad"):
        fk.spectral_grad_many_([torch.zeros(9, 7, requires_grad=True)], [x], [3], 1.0)
    y = x * 2
    saved = y.square().sum()
    with torch.no_grad():
        fk.spectral_grad_many_([y], [torch.randn(9, 7)], [3], 1.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        saved.backward()


@pytest.mark.parametrize("requires_grad", [False, True])
def test_opcheck(requires_grad: bool) -> None:
    for x in (torch.randn(6, 8), torch.randn(2, 8, 8, dtype=torch.float64).transpose(-1, -2)):
        xs = [x.detach().requires_grad_(requires_grad) for _ in range(2)]
        options: dict[str, Any] = {"standardize": True, "decay": [1.0, 2.0]}
        torch.library.opcheck(F.spectral_loss.default, (xs[0], [3, 2]), {"standardize": True})
        torch.library.opcheck(F.spectral_loss_many.default, (xs, [3, 2, 1, 1]), options)
        scale = torch.tensor(2.0)
        torch.library.opcheck(F._spectral_grad_many.default, (scale, xs, [3, 2, 1, 1]), options)
        grads = [torch.zeros_like(x) for _ in xs]
        torch.library.opcheck(F.spectral_grad_many_.default, (grads, xs, [3, 2, 1, 1], 0.5), options)
    matrices = [torch.randn(6, 8) for _ in range(2)]
    torch.library.opcheck(F._spectral_crop.default, (matrices, [3, 2]), {})
    c, _ = F._spectral_crop(matrices, [3, 2])
    terms = torch.rand(2, 4, dtype=torch.float64)
    grads = [torch.zeros(6, 8) for _ in matrices]
    torch.library.opcheck(
        F._spectral_residual_.default, (grads, matrices, c, terms), {}, test_utils=("test_schema", "test_faketensor")
    )


def train(w: Tensor, k: int) -> Tensor:
    loss = fk.spectral_loss(w, (k, 2), standardize=True) * 2 + fk.spectral_loss_many([w, w.t()], [(k, 2), 1])
    loss = loss + fk.spectral_loss_many([w], [(k, 2)], decay=(1.0, 0.5))
    loss = loss + fk.spectral_stack_loss([w, w], (2, k, 2), decay=(0.5, 1.0, 2.0))
    return loss + fk.spectral_stack_loss([w, w * w], (1, k, 2), standardize=True)


def value_and_grad(f: Callable[[Tensor, int], Tensor], w: Tensor, k: int) -> tuple[Tensor, Tensor]:
    w = w.clone().requires_grad_()
    loss = f(w, k)
    return loss.detach(), torch.autograd.grad(loss, w)[0]


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compiled_once_for_all_shapes(backend: str) -> None:
    counter = CompileCounterWithBackend(backend)
    compiled = torch.compile(train, fullgraph=True, dynamic=True, backend=counter)
    for m, n, k in ((9, 8, 3), (17, 30, 5), (64, 7, 4)):
        w = torch.randn(m, n, dtype=torch.float64)
        torch.testing.assert_close(value_and_grad(compiled, w, k), value_and_grad(train, w, k), rtol=1e-11, atol=1e-11)
    assert counter.frame_count == 1


def test_a_graph_of_symbolic_sizes_is_for_all() -> None:
    def gradient(w: Tensor) -> Tensor:
        def loss(w: Tensor) -> Tensor:
            return fk.spectral_loss_many([w], [(w.shape[0] // 2, w.shape[1] // 2)], decay=(1.0, 0.5)).square()

        return torch.func.grad(lambda w: torch.func.grad(loss)(w).square().sum())(w)

    graph = make_fx(gradient, tracing_mode="symbolic")(torch.randn(8, 10, dtype=torch.float64))
    w = torch.randn(20, 30, dtype=torch.float64)
    torch.testing.assert_close(graph(w), gradient(w), rtol=1e-11, atol=1e-11)


def test_the_in_place_form_compiles() -> None:
    def step(grads: list[Tensor], ws: list[Tensor]) -> Tensor:
        return fk.spectral_grad_many_(grads, ws, [(3, 2)] * len(ws), 0.5, standardize=True)

    ws = [torch.randn(6, 8) for _ in range(2)]
    one, two = ([torch.ones(6, 8) for _ in ws] for _ in range(2))
    assert torch.compile(step, fullgraph=True)(one, ws) == step(two, ws)
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


def test_the_in_place_form_is_compiled_for_all_scales() -> None:
    """At most twice: torch takes a number for a constant until it sees another one."""

    def step(grad: Tensor, x: Tensor, scale: float) -> Tensor:
        return fk.spectral_grad_many_([grad], [x], [3], scale, standardize=True)

    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(step, fullgraph=True, backend=counter)
    x = torch.randn(6, 8)
    for i in range(10):
        one, two = torch.ones(6, 8), torch.ones(6, 8)
        assert compiled(one, x, 0.1 * i) == step(two, x, 0.1 * i)
        assert torch.equal(one, two)
    assert counter.frame_count <= 2


def test_a_scale_in_a_tensor() -> None:
    xs, scale = [torch.randn(6, 8), torch.randn(1, 5)], torch.tensor(0.3, dtype=torch.float64)
    one, two = ([torch.ones_like(x) for x in xs] for _ in range(2))
    options = {"standardize": True, "decay": [1.0, 0.5]}
    versions = [grad._version for grad in one]
    found = F._spectral_accumulate_(one, xs, [3, 2, 1, 1], scale, **options)
    assert found == F.spectral_grad_many_(two, xs, [3, 2, 1, 1], 0.3, **options)
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    assert all(grad._version > version for grad, version in zip(one, versions, strict=True))
    torch.library.opcheck(F._spectral_accumulate_.default, (one, xs, [3, 2, 1, 1], scale), options)


class Penalty(torch.nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return fk.spectral_loss(x, (2, 3), standardize=True) + fk.spectral_loss_many([x], [2], decay=[1.0, 0.5])


def test_export() -> None:
    x = torch.randn(5, 9)
    program = torch.export.export(Penalty(), (x,))
    torch.testing.assert_close(program.module()(x), Penalty()(x))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_the_losss_dtype(dtype: torch.dtype) -> None:
    x = torch.randn(5, 9).to(dtype)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    assert fk.spectral_loss(x, 2).dtype == fk.spectral_loss(x.to("meta"), 2).dtype == wide
    assert fk.spectral_loss_many([x, torch.randn(3, 3)], [2, 2]).dtype == wide
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(fk.spectral_loss(x, 2), fk.spectral_loss_many([x], [2]))
