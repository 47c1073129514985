"""The spectral loss of stacked layers against its dense definition in float64, and as part of autograd."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

import front_kernels
from front_kernels import spectral_loss_many, spectral_stack_grad_, spectral_stack_loss
from front_kernels._spectral_definition import composed_stack
from penalties import Rates, assert_close, dense_stack

SHAPES = [(2, 5, 7), (4, 6, 6), (3, 1, 9), (3, 8, 1), (5, 33, 20), (1, 4, 4)]
DECAYS = {"box": None, "decay": (1.0, 2.0, 0.5), "along-layers": (3.0, 0.0, 0.0), "none": (0.0, 0.0, 0.0)}
TOLERANCE = {torch.float64: 1e-12, torch.float32: 5e-6, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}


def layers(shape: tuple[int, int, int], dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """Of different means and scales, so that a swapped layer shows."""
    return [(torch.randn(shape[1:]) * (i + 1) + i / 2).to(dtype).requires_grad_() for i in range(shape[0])]


def kept(shape: tuple[int, int, int]) -> tuple[int, int, int]:
    return tuple(max(1, n // 2) for n in shape)  # type: ignore[return-value]


def dense(xs: list[Tensor], k: tuple[int, int, int], decay: Rates | None, standardize: bool) -> tuple[Tensor, ...]:
    """The loss and its gradients."""
    own = [x.detach().double().requires_grad_() for x in xs]
    loss = dense_stack(own, k, decay, standardize)
    return loss.detach(), *torch.autograd.grad(loss, own)


@pytest.mark.parametrize("standardize", [False, True], ids=["plain", "standardized"])
@pytest.mark.parametrize("decay", DECAYS.values(), ids=DECAYS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_equals_the_dense_definition(
    shape: tuple[int, int, int], decay: Rates | None, standardize: bool, dtype: torch.dtype
) -> None:
    xs = layers(shape, dtype)
    k = kept(shape)
    expected, *wanted = dense(xs, k, decay, standardize)
    loss = spectral_stack_loss(xs, k, standardize=standardize, decay=decay)
    found = torch.autograd.grad(loss, xs)
    grads = [torch.ones_like(x) for x in xs]
    value = spectral_stack_grad_(
        [g.detach() for g in grads], [x.detach() for x in xs], k, -0.5, standardize=standardize, decay=decay
    )
    for scalar in (loss, value):
        assert scalar.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        assert scalar.item() == pytest.approx(expected.item(), rel=1e-12 if dtype == torch.float64 else 2e-6)
    assert_close(found, wanted, TOLERANCE[dtype])
    assert_close(grads, [1 - 0.5 * g for g in wanted], TOLERANCE[dtype])


def test_gradients_in_the_compute_dtype() -> None:
    xs = layers((3, 6, 5), torch.bfloat16)
    grads = [torch.zeros(6, 5) for _ in xs]
    spectral_stack_grad_(grads, [x.detach() for x in xs], (2, 3, 3), 1.0, standardize=True)
    assert_close(grads, dense(xs, (2, 3, 3), None, True)[1:], 5e-6)


@pytest.mark.parametrize("standardize", [False, True], ids=["plain", "standardized"])
@pytest.mark.parametrize("decay", [None, (0.0, 1.0, 2.0)], ids=["box", "decay"])
def test_with_all_layers_kept_it_is_the_sum_of_their_own(decay: Rates | None, standardize: bool) -> None:
    xs = layers((4, 9, 7))
    stacked = spectral_stack_loss(xs, (4, 3, 4), standardize=standardize, decay=decay)
    single = spectral_loss_many(xs, [(3, 4)] * 4, standardize=standardize, decay=decay and decay[1:])
    assert stacked.item() == pytest.approx(single.item(), rel=1e-13)
    assert_close(torch.autograd.grad(stacked, xs), torch.autograd.grad(single, xs), 1e-12)


def test_couples_the_layers() -> None:
    """With a part of the layers' coefficients kept, a change in one layer changes another one's gradient."""
    xs = layers((3, 6, 6))

    def gradients(k: tuple[int, int, int]) -> list[Tensor]:
        return list(torch.autograd.grad(spectral_stack_loss(xs, k, standardize=True), xs))

    before = gradients((2, 3, 3)), gradients((3, 3, 3))
    with torch.no_grad():
        xs[2][0] += 1
    after = gradients((2, 3, 3)), gradients((3, 3, 3))
    for i in (0, 1):
        assert float((after[0][i] - before[0][i]).norm()) > 1e-3 * float(before[0][i].norm())
        assert_close([after[1][i]], [before[1][i]], 1e-12)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("decay", [None, (1.0, 2.0, 0.5)], ids=["box", "decay"])
def test_a_constant_layer(decay: Rates | None, dtype: torch.dtype) -> None:
    """It is 0 among the others, gets no gradient, and what they leak into it counts."""
    xs = layers((4, 6, 5), dtype)
    xs[1] = torch.full((6, 5), 0.3, dtype=dtype, requires_grad=True)
    expected, *wanted = dense(xs, (2, 3, 2), decay, True)
    assert not wanted[1].any()
    loss = spectral_stack_loss(xs, (2, 3, 2), standardize=True, decay=decay)
    found = torch.autograd.grad(loss, xs)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-12 if dtype == torch.float64 else 2e-6)
    assert not found[1].any()
    assert_close(found, wanted, TOLERANCE[dtype])
    composed = composed_stack(xs, (2, 3, 2), True, decay)
    assert_close(torch.autograd.grad(composed, xs), wanted, TOLERANCE[dtype])


def test_all_layers_constant() -> None:
    xs = [torch.full((4, 5), float(i), requires_grad=True) for i in range(3)]
    loss = spectral_stack_loss(xs, (2, 2, 2), standardize=True)
    assert loss.item() == 0
    assert not any(grad.any() for grad in torch.autograd.grad(loss, xs))


@pytest.mark.parametrize("standardize", [False, True], ids=["plain", "standardized"])
@pytest.mark.parametrize("decay", [None, (1.0, 2.0, 0.5)], ids=["box", "decay"])
@pytest.mark.parametrize("mean", [1e5, 1e6])
def test_a_mean_far_above_the_deviation(mean: float, decay: Rates | None, standardize: bool) -> None:
    xs = [(torch.randn(33, 20, dtype=torch.float64) + mean).float().requires_grad_() for _ in range(4)]
    with torch.no_grad():
        xs[2][0, 0] = 0
    k = (2, 10, 7)
    expected, *wanted = dense(xs, k, decay, standardize)
    loss = spectral_stack_loss(xs, k, standardize=standardize, decay=decay)
    for found in (
        torch.autograd.grad(loss, xs, retain_graph=True),
        torch.autograd.grad(loss, xs, create_graph=True),
        torch.autograd.grad(composed_stack(xs, k, standardize, decay), xs),
    ):
        assert_close(found, wanted, 2e-5)
    for value in (loss, composed_stack(xs, k, standardize, decay)):
        assert value.item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("share", [1e-3, 1e-6])
def test_a_small_share_does_not_cancel(share: float) -> None:
    """Smooth along all axes but for a little: float32 finds it to the accuracy of the inputs' rounding."""
    torch.manual_seed(1)
    k = (2, 8, 8)
    z = torch.randn(k, dtype=torch.float64)
    low = front_kernels.reference.idct(front_kernels.reference.idct_pad(z, (32, 32)), 4, 0)
    noise = torch.randn(low.shape, dtype=torch.float64)
    x = low + noise * (low.norm() / noise.norm()) * math.sqrt(share)
    xs = [layer.float() for layer in x]
    expected = dense_stack(xs, k, None, True)
    assert spectral_stack_loss(xs, k, standardize=True).item() == pytest.approx(expected.item(), rel=1e-4)


@pytest.mark.parametrize("standardize", [False, True], ids=["plain", "standardized"])
@pytest.mark.parametrize("decay", [None, (1.0, 2.0, 0.5)], ids=["box", "decay"])
def test_gradcheck(decay: Rates | None, standardize: bool) -> None:
    xs = layers((3, 4, 5))

    def loss(*own: Tensor) -> Tensor:
        return spectral_stack_loss(own, (2, 2, 3), standardize=standardize, decay=decay)

    assert torch.autograd.gradcheck(loss, xs, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(loss, xs)


def test_torch_func() -> None:
    xs = [x.detach() for x in layers((3, 4, 5))]
    found = torch.func.grad(lambda own: spectral_stack_loss(own, (2, 2, 3), standardize=True))(xs)
    assert_close(found, dense(xs, (2, 2, 3), None, True)[1:], 1e-12)


def test_strided_layers() -> None:
    whole = torch.randn(6, 8, 10, dtype=torch.float64)
    xs = [whole[i, ::2, 1:9].t() for i in (0, 2, 5)]
    into = torch.ones(3, 4, 16, dtype=torch.float64)
    grads = [g[:, ::2].t() for g in into]
    spectral_stack_grad_(grads, xs, (2, 3, 2), 1.0, standardize=True)
    assert_close(grads, [1 + g for g in dense(xs, (2, 3, 2), None, True)[1:]], 1e-12)
    assert bool((into[:, :, 1::2] == 1).all())


def test_autograd_knows_that_gradients_have_changed() -> None:
    xs = [x.detach() for x in layers((2, 4, 4))]
    grads = [torch.randn(4, 4, dtype=torch.float64) for _ in xs]
    weight = torch.ones((), dtype=torch.float64, requires_grad=True)
    product = weight * grads[1]
    spectral_stack_grad_(grads, xs, (1, 2, 2), 1.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        product.sum().backward()


X = torch.randn(4, 5)
ERRORS: dict[str, tuple[dict[str, Any], str]] = {
    "empty": ({"xs": []}, "xs must not be empty"),
    "shapes": ({"xs": [X, X.t().contiguous().t()[:3]]}, r"xs must have one shape, got \[4, 5\] at 0 and \[3, 5\] at 1"),
    "dtypes": ({"xs": [X, X.double()]}, "xs must have one dtype, got float32 at 0 and float64 at 1"),
    "rank": ({"xs": [X[None], X[None]]}, r"xs must be matrices, got shape \[1, 4, 5\]"),
    "integers": ({"xs": [X.int(), X.int()]}, r"xs\[0\]'s dtype must be float16, .* got int32"),
    "k short": ({"k": (2, 2)}, r"k must have 3 elements \(layers, rows, columns\), got \[2, 2\]"),
    "layers 0": ({"k": (0, 2, 2)}, r"k\[0\] must be between 1 and 2 \(the number of xs\), got 0"),
    "layers 3": ({"k": (3, 2, 2)}, r"k\[0\] must be between 1 and 2 \(the number of xs\), got 3"),
    "rows": ({"k": (1, 5, 2)}, r"k\[1\] must be between 1 and 4.*, got 5"),
    "columns": ({"k": (1, 2, 0)}, r"k\[2\] must be between 1 and 5.*, got 0"),
    "decay two": ({"decay": (1.0, 2.0)}, r"decay must have 3 elements \(layers, rows, columns\), got 2"),
    "decay -1": ({"decay": (0.0, -1.0, 0.0)}, r"decay\[1\] must be finite and at least 0, got -1"),
}


@pytest.mark.parametrize(("arguments", "message"), ERRORS.values(), ids=ERRORS)
def test_argument_errors(arguments: dict[str, Any], message: str) -> None:
    given = {"xs": [X, X], "k": (1, 2, 2)} | arguments
    with pytest.raises(ValueError, match=rf"^front::spectral_stack_loss: {message}"):
        spectral_stack_loss(**given)
    grads = [torch.zeros_like(x) for x in given["xs"]]
    with pytest.raises(ValueError, match=rf"^front::spectral_stack_grad_: {message}"):
        spectral_stack_grad_(grads, scale=1.0, **given)


TYPES: dict[str, tuple[dict[str, Any], str]] = {
    "xs": ({"xs": [X, 3]}, r"xs\[1\] must be a tensor, got 3"),
    "standardize": ({"standardize": "no"}, "standardize must be True or False, got 'no'"),
    "decay": ({"decay": (1.0, "a", 1.0)}, r"decay\[1\] must be a number, got 'a'"),
    "k": ({"k": (1, 2.0, 2)}, r"k\[1\] must be a whole number, got 2.0"),
}


@pytest.mark.parametrize(("arguments", "message"), TYPES.values(), ids=TYPES)
def test_wrong_types(arguments: dict[str, Any], message: str) -> None:
    given: dict[str, Any] = {"xs": [X, X], "k": (1, 2, 2)} | arguments
    with pytest.raises(TypeError, match=rf"^front::spectral_stack_loss: {message}"):
        spectral_stack_loss(**given)
    with pytest.raises(TypeError, match=rf"^front::spectral_stack_grad_: {message}"):
        spectral_stack_grad_([torch.zeros_like(X) for _ in given["xs"]], scale=1.0, **given)


def test_a_tensor_is_a_list_of_its_matrices() -> None:
    xs, grads = torch.randn(2, 4, 5), torch.zeros(2, 4, 5)
    expected = [torch.zeros(4, 5), torch.zeros(4, 5)]
    loss = spectral_stack_grad_(expected, list(xs), (1, 2, 2), 1.0, standardize=np.bool_(True))  # type: ignore[arg-type]
    assert spectral_stack_grad_(grads, xs, (1, 2, 2), 1.0, standardize=True) == loss  # type: ignore[arg-type]
    assert torch.equal(grads, torch.stack(expected))


@pytest.mark.parametrize("scale", [None, "1", torch.ones(2)])
def test_scales_that_are_no_numbers(scale: Any) -> None:
    grads = [torch.zeros_like(X)]
    with pytest.raises(TypeError, match=r"^front::spectral_stack_grad_: scale must be a number, got "):
        spectral_stack_grad_(grads, [X], (1, 2, 2), scale)
    assert not grads[0].any()


@pytest.mark.parametrize("standardize", [False, True], ids=["plain", "standardized"])
def test_a_graph_of_symbolic_sizes_is_for_all(standardize: bool) -> None:
    def loss(x: Tensor) -> Tensor:
        return spectral_stack_loss([x, x.sin()], (1, 2, 2), standardize=standardize, decay=(0.1, 0.2, 0.3))

    y = torch.randn(13, 17, dtype=torch.float64) + 3
    graph = make_fx(loss, tracing_mode="symbolic")(torch.randn(6, 8, dtype=torch.float64) + 3)
    assert graph(y).item() == pytest.approx(loss(y).item(), rel=1e-12)

    class Module(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return loss(x)

    sizes = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    program = torch.export.export(Module(), (torch.randn(6, 8, dtype=torch.float64) + 3,), dynamic_shapes={"x": sizes})
    assert program.module()(y).item() == pytest.approx(loss(y).item(), rel=1e-12)


def test_batched_gradients() -> None:
    xs = layers((2, 5, 7))

    def loss() -> Tensor:
        return spectral_stack_loss(xs, (1, 2, 3), standardize=True)

    factors = torch.tensor([1.0, -2.0], dtype=torch.float64)
    found = torch.autograd.grad(loss(), xs, factors, is_grads_batched=True)
    for batch, single in zip(found, torch.autograd.grad(loss(), xs), strict=True):
        torch.testing.assert_close(batch, factors[:, None, None] * single, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["k short", "layers 0", "layers 3", "rows", "decay two"])
def test_argument_errors_while_compiling(name: str) -> None:
    arguments, message = ERRORS[name]
    given = {"k": (1, 2, 2)} | arguments

    def loss(*xs: Tensor) -> Tensor:
        return 2 * spectral_stack_loss(xs, **given)

    with pytest.raises(ValueError, match=rf"^front::spectral_stack_loss: {message}"):
        torch.compile(loss, backend="eager")(X, X)


@pytest.mark.parametrize(
    ("grads", "message"),
    [
        ([X], r"grads must have one tensor for each of xs \(2\), got 1"),
        ([X, X[:3]], r"grads\[1\] must have shape \[4, 5\], as xs\[1\] has, got \[3, 5\]"),
        ([X, X.double()], r"grads\[1\]'s dtype must be float32.*, got float64"),
    ],
)
def test_errors_of_gradients(grads: list[Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=rf"^front::spectral_stack_grad_: {message}"):
        spectral_stack_grad_([g.clone() for g in grads], [X, X], (1, 2, 2), 1.0)


def test_gradients_that_require_grad_are_refused() -> None:
    grads = [torch.zeros(4, 5, requires_grad=True), torch.zeros(4, 5)]
    with pytest.raises(RuntimeError, match=r"^front::spectral_stack_grad_: grads must not require grad"):
        spectral_stack_grad_(grads, [X, X], (1, 2, 2), 1.0)
    assert not grads[0].any()
