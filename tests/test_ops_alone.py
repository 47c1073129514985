"""Vectors that are transformed one by one, their own points in the vector lanes: few, or long."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.fft
import torch
from torch import Tensor

import front_kernels as fk
from front_kernels import _C

MACHINE = list(torch.ops.front._cpu_machine())
BOUND = {torch.float32: 3e-7, torch.float64: 2e-14}
# Half of them: products of two factors that fill vectors, or do not, or are not even; of every radix.
LENGTHS = [2 * rows * columns for rows, columns in ((8, 16), (16, 16), (9, 25), (20, 25), (21, 32), (7, 60), (49, 64))]


def chosen(n: int, kept: int, lanes: int, dtype: torch.dtype, machine: list[int] = MACHINE) -> bool:
    return bool(_C.plan_alone(n, kept, lanes, 8 if dtype == torch.float64 else 4, machine)[2])


def vectors(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).to(dtype)


def dct(x: Tensor, k: int, norm: str = "ortho") -> np.ndarray:
    return scipy.fft.dct(x.double().numpy(), norm=norm)[..., :k]


def idct(x: Tensor, n: int, norm: str = "ortho") -> np.ndarray:
    return scipy.fft.idct(np.pad(x.double().numpy(), [(0, 0)] * (x.ndim - 1) + [(0, n - x.shape[-1])]), norm=norm)


def error(got: Tensor, expected: np.ndarray) -> float:
    assert tuple(got.shape) == expected.shape
    return float(np.linalg.norm(got.double().numpy() - expected) / np.linalg.norm(expected))


@pytest.mark.parametrize("dtype", BOUND)
@pytest.mark.parametrize("n", LENGTHS)
def test_values(n: int, dtype: torch.dtype) -> None:
    x = vectors(n, dtype=dtype)
    assert chosen(n, n, 1, dtype) or MACHINE[0] // dtype.itemsize < 4  # nothing is gained by the narrowest vectors
    for k in (n, n - 1, n // 2 + 1, n // 2, n // 4 + 3):
        assert error(fk.dct(x, k), dct(x, k)) <= BOUND[dtype], k
        assert error(fk.idct(x[:k].clone(), n), idct(x[:k], n)) <= BOUND[dtype], k


def test_large_values_do_not_overflow() -> None:
    for at in (0, 4):  # sums of a point and its mirror are beyond float32's largest
        x = torch.zeros(1024)
        x[at] = 2.5e38
        assert error(fk.dct(x), dct(x, 1024)) <= 3e-7
        assert error(fk.idct(x), idct(x, 1024)) <= 3e-7


def test_gradients_and_batching() -> None:
    x = vectors(3, 1000).requires_grad_()
    g = vectors(3, 700, seed=1)
    (gradient,) = torch.autograd.grad(fk.dct(x, 700), x, g)
    assert error(gradient, idct(g, 1000)) <= 3e-7
    mapped = torch.vmap(lambda v: fk.dct(v, 700))(x.detach())
    assert error(mapped, dct(x.detach(), 700)) <= 3e-7


@pytest.mark.parametrize("norm", ["ortho", "backward", "forward"])
def test_norms(norm: str) -> None:
    x = vectors(1000)
    assert error(fk.dct(x, 700, norm=norm), dct(x, 700, norm)) <= 3e-7
    assert error(fk.idct(x, norm=norm), idct(x, 1000, norm)) <= 3e-7
    y = vectors(700, seed=1)  # the transpose of the other op
    left = (fk.dct(x, 700, norm=f"adjoint:{norm}") * y).sum()
    assert left.item() == pytest.approx((x * fk.idct(y, 1000, norm=norm)).sum().item(), rel=1e-5)


@pytest.mark.parametrize("given", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_dtypes(given: torch.dtype) -> None:
    x = vectors(1, 4096, dtype=given)
    for wanted in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        bound = max(BOUND.get(wanted, 0), torch.finfo(wanted).eps if wanted.itemsize == 2 else 0)
        if torch.float64 not in (given, wanted):
            bound = max(bound, 3e-7)
        assert error(fk.dct(x, out_dtype=wanted), dct(x, 4096)) <= bound
        assert error(fk.idct(x, 4096, out_dtype=wanted), idct(x, 4096)) <= bound


def test_every_element() -> None:
    """Within 8 eps of itself or of the root mean square; of 4096 and more the other way computes a step in double."""
    for n in (4096, 1 << 16, 1 << 18):
        for op, definition in ((fk.dct, dct), (fk.idct, idct)):
            x = vectors(n, seed=n)
            expected = definition(x, n)
            scale = np.maximum(np.abs(expected), np.sqrt(np.mean(expected**2)))
            assert np.max(np.abs(op(x).double().numpy() - expected) / scale) <= 8 * torch.finfo(torch.float32).eps


def test_lanes_of_any_layout() -> None:
    x = vectors(3, 2, 1500)[:, :, 7:1007]  # rows with gaps
    assert chosen(1000, 1000, 2, torch.float32)
    for part in (x[0], x[0, 0], x[:2, 1], x[:1].transpose(0, 1)):
        assert error(fk.dct(part, 600), dct(part, 600)) <= 3e-7
        assert error(fk.idct(part, 2000), idct(part, 2000)) <= 3e-7
    column = vectors(1000, 2)  # elements that are not adjacent: together
    assert error(fk.dct(column, dim=0), dct(column.T, 1000).T) <= 3e-7


def test_many_long_ones() -> None:
    n, lanes = 1 << 17, 17
    far = n * MACHINE[0] > MACHINE[1]  # what is transformed together leaves the core's cache
    assert chosen(n, n, lanes, torch.float32) or not far or MACHINE[0] == 16
    x = vectors(lanes, n)
    assert error(fk.dct(x), dct(x, n)) <= 3e-7
    assert error(fk.idct(x), idct(x, n)) <= 3e-7


def test_choice() -> None:
    wide = [64, 1 << 20, 32 << 20, 2]
    assert _C.plan_alone(4096, 4096, 1, 4, wide) == (64, 32, True)
    for n in (1 << 20, 1 << 24, 3 * 5 * 7 << 16):  # near a square: a small scratch, and units for threads
        rows, columns, _ = _C.plan_alone(n, n, 1, 4, wide)
        assert 2 * rows * columns == n
        assert columns <= rows <= 8 * columns
    assert not chosen(4096, 4096, 16, torch.float32, wide)  # as many as a vector has lanes: together
    assert chosen(1 << 16, 1 << 16, 16, torch.float32, wide)  # too long for a core's cache together
    for n in (1001, 2 * 509, 2 * 11 * 32, 4, 2):  # odd; a large factor; none
        assert _C.plan_alone(n, n, 1, 4, wide) == (0, 0, False)


def test_the_same_for_any_number_of_threads() -> None:
    before = torch.get_num_threads()
    one, few = vectors(1 << 18), vectors(5, 1 << 14)
    assert chosen(1 << 18, 1 << 18, 1, torch.float32)
    try:
        found = []
        for threads in (1, 2, 5, 8):  # threads of one vector, vectors of one thread
            torch.set_num_threads(threads)
            found.append([op(x) for op in (fk.dct, fk.idct) for x in (one, few)])
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_stays_in_its_vector(value: float) -> None:
    x = vectors(3, 1 << 15)
    assert chosen(1 << 15, 1 << 15, 3, torch.float32) or MACHINE[0] == 16
    finite = x.clone()
    x[1, 500] = value
    for op in (fk.dct, fk.idct):
        y = op(x)
        assert not y[1].isfinite().any()
        assert torch.equal(y[::2], op(finite)[::2])
