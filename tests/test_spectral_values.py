"""The spectral loss and its gradient against their float64 definition."""

from __future__ import annotations

import itertools
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

import front_kernels as fk
from front_kernels import _spectral_parts, reference

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
# Relative, of the loss; and of the gradient, to its scale (see `dense`).
LOSS = {torch.float64: 1e-13, torch.float32: 1e-6, torch.bfloat16: 1e-6, torch.float16: 1e-6}
GRADIENT = {torch.float64: 1e-14, torch.float32: 6e-7, torch.bfloat16: 6e-7, torch.float16: 6e-7}
SHAPES = {  # shape: k
    (64, 48): (32, 24),
    (37, 53): (5, 50),
    (1, 300): (1, 100),
    (300, 1): (100, 1),
    (512, 768): (30, 40),  # columns are decimated
    (1031, 17): (700, 3),  # a prime: by convolution
    (20, 30): (20, 30),
    (21, 30): (1, 1),
    (2, 2): (1, 2),
}
CASES = list(SHAPES.items())


def dense(
    x: Tensor, k: tuple[int, int], standardize: bool = False, decay: tuple[float, float] | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Loss, gradient, and the scale of the gradient's error.

    That is ``2 ||R|| / s^2``, which the standardisation's term may nearly cancel, and a part of ``2 ||x|| / s^2``: the
    low frequencies that are subtracted from x are rounded.
    """
    x = x.detach().to(torch.float64).requires_grad_()
    loss = reference.spectral_loss(x, k, standardize=standardize, decay=decay)
    (gradient,) = torch.autograd.grad(loss, x)
    d = (x - x.mean((-2, -1), keepdim=True)).detach()
    s = d.square().sum((-2, -1), keepdim=True).div(max(1, d.shape[-2] * d.shape[-1] - 1)).sqrt() if standardize else 1.0
    y = (d / s).requires_grad_()
    (plain,) = torch.autograd.grad(reference.spectral_loss(y, k, decay=decay), y)
    return loss.detach(), gradient, (plain / s).norm() + 0.4 * (2 * x.detach() / s**2).norm()


def assert_near(loss: Tensor, gradient: Tensor, x: Tensor, *args: object) -> None:
    expected, exact, scale = dense(x, *args)  # type: ignore[arg-type]
    total = reference.spectral_loss(x, (1, 1), standardize=bool(args[1:2] and args[1]))
    error = (loss.to(torch.float64) - expected).abs()
    assert error <= LOSS[x.dtype] * max(expected.item(), 1e-9 * total.item()), (loss, expected)
    assert (gradient.to(torch.float64) - exact).norm() <= GRADIENT[x.dtype] * max(scale.item(), 1e-300)


def sample(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return (torch.randn(shape, dtype=torch.float64) * 0.1 + 0.3).to(dtype)


def wide(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


@pytest.mark.parametrize("decay", [None, (2.0, 3.0), (0.0, 1e-3)], ids=["box", "decay", "slow decay"])
@pytest.mark.parametrize("standardize", [False, True])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_value_and_gradient(dtype: torch.dtype, standardize: bool, decay: tuple[float, float] | None) -> None:
    for shape, k in CASES:
        if k == shape and decay is None:
            continue  # nothing is lost: see below
        x = sample(shape, dtype)
        gradient = torch.zeros(shape, dtype=wide(dtype))
        loss = fk.spectral_grad_many_([gradient], [x], [k], 1.0, standardize=standardize, decay=decay)
        assert loss.dtype == wide(dtype)
        assert_near(loss, gradient, x, k, standardize, decay)
        value = fk.spectral_loss_many([x], [k], standardize=standardize, decay=decay)
        assert value.item() == pytest.approx(loss.item(), rel=1e-5)


@pytest.mark.parametrize("standardize", [False, True])
def test_nothing_is_lost_where_all_is_kept(standardize: bool) -> None:
    x = torch.randn(20, 30)
    gradient = torch.zeros(20, 30)
    loss = fk.spectral_grad_many_([gradient], [x], [(20, 30)], 1.0, standardize=standardize)
    assert loss < 1e-12 * x.square().sum()
    assert gradient.abs().max() < 1e-5


@pytest.mark.parametrize("standardize", [False, True])
def test_batches_are_summed_and_each_matrix_is_standardised_by_itself(standardize: bool) -> None:
    x = torch.stack([sample((9, 14), torch.float64) * (i + 1) for i in range(6)]).view(2, 3, 9, 14)
    single = sum(fk.spectral_loss(x[i, j], (4, 5), standardize=standardize) for i in range(2) for j in range(3))
    torch.testing.assert_close(fk.spectral_loss(x, (4, 5), standardize=standardize), single)
    gradient = torch.zeros_like(x)
    fk.spectral_grad_many_([gradient], [x], [(4, 5)], 1.0, standardize=standardize)
    for i, j in itertools.product(range(2), range(3)):
        exact = dense(x[i, j], (4, 5), standardize)[1]
        assert (gradient[i, j] - exact).norm() <= 1e-12 * exact.norm()
    assert fk.spectral_loss(torch.empty(0, 4, 5), (2, 2)) == 0


@pytest.mark.parametrize("standardize", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_any_strides_of_tensor_and_gradient(dtype: torch.dtype, standardize: bool) -> None:
    """Rows, columns, slices, reversed roles: of x and of the gradient, which need not agree; guarded by sentinels."""

    def layouts(full: Tensor) -> dict[str, Tensor]:
        return {
            "rows": full[:40, :56].contiguous(),
            "slice": full[3:43, 5:61],
            "steps": torch.full((80, 112), 7.0, dtype=full.dtype)[::2, ::2].copy_(full[:40, :56]),
            "columns": full[:40, :56].t().contiguous().t(),
            "column slice": torch.full((70, 60), 7.0, dtype=full.dtype).t()[9:49, 6:62].copy_(full[:40, :56]),
        }

    k = (12, 20)
    for name_x, x in layouts(sample((50, 70), dtype)).items():
        for name_g in ("rows", "slice", "steps", "columns", "column slice"):
            base = torch.full((50, 70), 2.0, dtype=wide(dtype))
            gradient = layouts(base)[name_g]
            gradient.fill_(2.0)
            whole = gradient if gradient._base is None else gradient._base
            around = torch.ones_like(whole, dtype=torch.bool)
            around.as_strided(gradient.shape, gradient.stride(), gradient.storage_offset()).fill_(False)
            before = whole[around]
            fk.spectral_grad_many_([gradient], [x], [k], 0.5, standardize=standardize)
            assert torch.equal(whole[around], before), (name_x, name_g)
            _, exact, scale = dense(x, k, standardize)
            found = (gradient.to(torch.float64) - 2) / 0.5
            # what is added to 2.0 is rounded to its steps
            rounding = torch.finfo(gradient.dtype).eps * 4 * (40 * 56) ** 0.5
            assert (found - exact).norm() <= GRADIENT[dtype] * scale + rounding, (name_x, name_g)


def test_nothing_outside_the_gradient_is_written() -> None:
    for transposed in (False, True):
        x = torch.randn(33, 47)
        room = torch.full((43, 60), 5.0)
        gradient = (room.t() if transposed else room)[2 : 2 + 33, 3 : 3 + 40]
        fk.spectral_grad_many_([gradient], [x[:, :40].contiguous()], [(7, 9)], 1.0)
        inside = torch.zeros_like(room, dtype=torch.bool)
        (inside.t() if transposed else inside)[2 : 2 + 33, 3 : 3 + 40] = True
        assert (room[~inside] == 5.0).all()
        assert (room[inside] != 5.0).float().mean() > 0.99


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_a_gradient_in_the_tensors_own_dtype_is_rounded_once(dtype: torch.dtype) -> None:
    x = sample((60, 44), dtype)
    old = torch.randn(60, 44).to(dtype)
    own, wider = old.clone(), old.float()
    fk.spectral_grad_many_([own], [x], [(20, 20)], 3.0, standardize=True)
    fk.spectral_grad_many_([wider], [x], [(20, 20)], 3.0, standardize=True)
    assert torch.equal(own, wider.to(dtype))


def of_share(shape: tuple[int, int], k: tuple[int, int], share: float, mean: float = 0.0) -> Tensor:
    """A matrix of unit energy, this share of it outside the corner, in float64."""
    c = torch.randn(shape, dtype=torch.float64)
    c[0, 0] = 0
    low = torch.zeros_like(c)
    low[: k[0], : k[1]] = c[: k[0], : k[1]]
    high = c - low
    low *= ((1 - share) / low.square().sum().clamp_min(1e-300)).sqrt()
    high *= (share / high.square().sum()).sqrt()
    return reference.idct2(low + high) + mean


SHARES = {1.0: 1e-5, 1e-3: 1e-5, 1e-6: 1e-4, 1e-9: 2e-3}


@pytest.mark.parametrize("standardize", [False, True])
@pytest.mark.parametrize(("shape", "k"), [((512, 384), (128, 96)), ((1, 1024), (1, 175)), ((2048, 512), (100, 60))])
@pytest.mark.parametrize("share", SHARES)
def test_small_shares_do_not_cancel(
    share: float, shape: tuple[int, int], k: tuple[int, int], standardize: bool
) -> None:
    x = of_share(shape, k, share).to(torch.float32)
    expected = reference.spectral_loss(x, k, standardize=standardize).item()
    gradient = torch.zeros(shape)
    assert fk.spectral_loss(x, k, standardize=standardize).item() == pytest.approx(expected, rel=SHARES[share])
    loss = fk.spectral_grad_many_([gradient], [x], [k], 1.0, standardize=standardize)
    assert loss.item() == pytest.approx(expected, rel=SHARES[share])
    _, exact, scale = dense(x, k, standardize)
    assert (gradient.to(torch.float64) - exact).norm() <= GRADIENT[torch.float32] * scale


@pytest.mark.parametrize("share", [0.9e-2, 1.1e-2])
def test_both_sides_of_the_switch(share: float) -> None:
    """A hundredth: above it the value is a difference of two sums, below it the residual's square."""
    x = of_share((256, 320), (64, 80), share).to(torch.float32)
    expected = reference.spectral_loss(x, (64, 80)).item()
    assert fk.spectral_loss(x, (64, 80)).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("outlier", [False, True], ids=["", "outlier"])
@pytest.mark.parametrize("standardize", [False, True], ids=["plain", "standardized"])
@pytest.mark.parametrize("mean", [1e3, 1e5, 1e6])
def test_a_mean_far_above_the_deviation(mean: float, standardize: bool, outlier: bool) -> None:
    """In every form; the first value may be far from all others."""
    k = (50, 40)
    x = of_share((200, 150), k, 0.3) * math.sqrt(200 * 150) + mean
    if outlier:
        x[0, 0] = -mean
    x = x.to(torch.float32)
    expected, exact, _ = dense(x, k, standardize)
    close = {"rel": 1e-5}
    assert fk.spectral_loss(x, k, standardize=standardize).item() == pytest.approx(expected.item(), **close)
    found = {name: torch.zeros_like(x) for name in ("fused", "halves", "stack")}
    losses = {
        "fused": fk.spectral_grad_many_([found["fused"]], [x], [k], 1.0, standardize=standardize),
        "halves": _spectral_parts.list_loss([found["halves"]], [x], k, 1.0, standardize, None),
        "stack": fk.spectral_stack_grad_([found["stack"]], [x], (1, *k), 1.0, standardize=standardize),
        "composed": fk.spectral_loss(y := x.clone().requires_grad_(), k, standardize=standardize),
    }
    # Where a graph is wanted the definition in differentiable ops runs.
    (found["composed"],) = torch.autograd.grad(losses["composed"], y, create_graph=True)
    for name, gradient in found.items():
        assert losses[name].item() == pytest.approx(expected.item(), **close), name
        assert (gradient.to(torch.float64) - exact).norm() <= 2e-6 * exact.norm(), name


@pytest.mark.parametrize("standardize", [False, True])
@pytest.mark.parametrize(
    "x",
    [
        torch.ones(768, 1).t(),
        torch.zeros(5, 7),
        torch.full((33, 65), 0.1),
        torch.full((33, 65), 1e-20),
        torch.full((1, 1), 3.0),
        torch.full((64, 64), -0.3, dtype=torch.bfloat16),
        torch.full((64, 63), 1 / 3, dtype=torch.float64),
    ],
    ids=lambda x: f"{tuple(x.shape)} {x.dtype} {x[0, 0].item():.3g}",
)
def test_constant_tensors_have_no_loss_and_no_gradient(x: Tensor, standardize: bool) -> None:
    k = (max(1, x.shape[0] // 2), max(1, x.shape[1] // 2))
    for decay in (None, (1.0, 2.0)):
        gradient = torch.randn(x.shape).to(x.dtype)
        before = gradient.clone()
        loss = fk.spectral_grad_many_([gradient], [x], [k], 1.0, standardize=standardize, decay=decay)
        assert loss == 0
        assert torch.equal(gradient, before)
        assert fk.spectral_loss_many([x], [k], standardize=standardize, decay=decay) == 0
        parts = _spectral_parts.list_loss([gradient], [x], list(k), 1.0, standardize, decay)
        assert parts == 0
        assert torch.equal(gradient, before)
        y = x.clone().requires_grad_()
        fk.spectral_loss_many([y], [k], standardize=standardize, decay=decay).backward()
        assert (y.grad == 0).all()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_nan_and_inf_stay_in_their_own_tensor(bad: float) -> None:
    xs = [torch.randn(30, 20) for _ in range(3)]
    xs[1][17, 3] = bad
    grads = [torch.zeros(30, 20) for _ in range(3)]
    loss = fk.spectral_grad_many_(grads, xs, [8] * 3, 1.0, standardize=True)
    assert loss.isnan()
    assert fk.spectral_loss(xs[1], 8).isnan()
    assert not grads[1].isfinite().any()
    for i in (0, 2):
        exact = dense(xs[i], (8, 8), True)[1]
        assert (grads[i].to(torch.float64) - exact).norm() < 1e-5 * exact.norm()


def model_like() -> tuple[list[Tensor], list[tuple[int, int]]]:
    shapes = [(96, 64), (64, 64), (1, 64), (256, 64), (64, 256), (1, 256), (900, 700)] * 2
    return [torch.randn(shape) for shape in shapes], [(max(1, m // 2), max(1, n // 3)) for m, n in shapes]


def test_the_range_of_float32() -> None:
    """Squares are formed in the transform's dtype, as the docstring says."""
    x = torch.randn(16, 16)
    usual = fk.spectral_loss(x, 4).item()
    assert fk.spectral_loss(1e18 * x, 4).item() == pytest.approx(1e36 * usual, rel=1e-5)
    assert fk.spectral_loss(1e19 * x, 4).item() == math.inf
    assert fk.spectral_loss(1e19 * x, 4, standardize=True).isnan()
    assert fk.spectral_loss(1e-18 * x, 4).item() == pytest.approx(1e-36 * usual, rel=1e-5)
    assert fk.spectral_loss(1e-24 * x, 4).item() == 0
    assert fk.spectral_loss(1e-24 * x.double(), 4).item() == pytest.approx(1e-48 * usual, rel=1e-5)


def test_lists_are_the_sum_in_any_order_and_repeat_bit_for_bit() -> None:
    xs, ks = model_like()
    grads = [[torch.zeros_like(x) for x in xs] for _ in range(3)]
    losses = [fk.spectral_grad_many_(g, xs, ks, 0.7, standardize=True) for g in grads[:2]]
    fk.spectral_grad_many_(grads[2][::-1], xs[::-1], ks[::-1], 0.7, standardize=True)
    assert torch.equal(losses[0], losses[1])
    for a, b, c in zip(*grads, strict=True):
        assert torch.equal(a, b)
        assert torch.equal(a, c)
    single = sum(fk.spectral_loss(x, k, standardize=True).item() for x, k in zip(xs, ks, strict=True))
    assert losses[0].item() == pytest.approx(single, rel=1e-6)


@pytest.mark.parametrize("by_columns", [False, True])
@pytest.mark.parametrize("standardize", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_by_any_number_of_threads(dtype: torch.dtype, standardize: bool, by_columns: bool) -> None:
    """Of columns, too, whose blocks are taken together, as many as each thread has."""
    x = torch.randn(700, 333, dtype=dtype).t() + 3
    x = x if by_columns else x.contiguous()
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            grad = torch.zeros_like(x)
            loss = fk.spectral_grad_many_([grad], [x], [(300, 500)], 1.0, standardize=standardize)
            results.append((loss, fk.spectral_loss(x, (300, 500), standardize=standardize), grad))
    finally:
        torch.set_num_threads(before)
    for result in results[1:]:
        assert all(map(torch.equal, result, results[0]))


def test_the_two_halves_are_the_whole() -> None:
    """What GPUs and shards use, against the fused form."""
    xs = [sample((30, 22), torch.float32) for _ in range(3)] + [sample((2, 5, 9), torch.bfloat16), torch.ones(4, 4)]
    ks = [(7, 8), (7, 8), (9, 9), (2, 3), (2, 2)]
    flat = [n for k in ks for n in k]
    for standardize, decay in itertools.product((False, True), (None, (1.0, 2.0))):
        fused = [torch.ones_like(x) for x in xs]
        halves = [torch.ones_like(x) for x in xs]
        a = fk.spectral_grad_many_(fused, xs, ks, 0.5, standardize=standardize, decay=decay)
        b = _spectral_parts.list_loss(halves, xs, flat, 0.5, standardize, decay)
        assert b.item() == pytest.approx(a.item(), rel=1e-6)
        for f, h in zip(fused, halves, strict=True):
            # Of the largest element; a gradient of 16 bits may be rounded the other way.
            allowed = {torch.float32: 2e-6, torch.bfloat16: 2.0**-7}[f.dtype] * f.abs().max()
            assert (f.float() - h.float()).abs().max() <= allowed


def test_gradients_in_one_memory_are_added_one_after_the_other() -> None:
    xs = [torch.randn(40, 30) for _ in range(2)]
    shared = torch.zeros(40, 30)
    fk.spectral_grad_many_([shared, shared], xs, [9, 9], 1.0)
    apart = [torch.zeros(40, 30) for _ in xs]
    fk.spectral_grad_many_(apart, xs, [9, 9], 1.0)
    torch.testing.assert_close(shared, apart[0] + apart[1], rtol=1e-5, atol=1e-5)
    flat = torch.zeros(40, 60)  # side by side: their ranges overlap, their elements do not
    fk.spectral_grad_many_([flat[:, :30], flat[:, 30:]], xs, [9, 9], 1.0)
    torch.testing.assert_close(flat, torch.cat(apart, 1))


SCRIPT = """
import sys
sys.path.insert(0, sys.argv[1])
import torch
import front_kernels
from test_spectral_values import *
assert torch.ops.front._cpu_isa() == sys.argv[2], torch.ops.front._cpu_isa()
torch.manual_seed(0)
for dtype in (torch.float32, torch.float64, torch.bfloat16):
    test_value_and_gradient(dtype, True, (2.0, 3.0))
    test_any_strides_of_tensor_and_gradient(dtype, True)
test_value_and_gradient(torch.float16, False, None)
test_small_shares_do_not_cancel(1e-6, (512, 384), (128, 96), True)
"""


@pytest.mark.parametrize("isa", [isa for isa in fk.build_info()["cpu_isas"] if isa != fk.build_info()["cpu_isa"]])
def test_every_other_instruction_set(isa: str) -> None:
    environment = {**os.environ, "FRONT_CPU_ISA": isa}
    arguments = [sys.executable, "-c", SCRIPT, str(Path(__file__).parent), isa]
    done = subprocess.run(arguments, env=environment, capture_output=True, text=True, timeout=300)
    if "FRONT_CPU_ISA must be one that this machine and build have" in done.stderr:
        pytest.skip(f"this machine has no {isa}: {done.stderr.strip().splitlines()[-1]}")
    assert done.returncode == 0, done.stderr[-2000:]
