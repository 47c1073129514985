"""Laws that define the ops, on shapes that hypothesis chooses, and what must not depend on chance."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import front_kernels as fk
from compare import TOLERANCE, assert_matches, relative_error

LENGTH = st.one_of(st.integers(1, 40), st.sampled_from([48, 64, 97, 100, 128, 201, 254, 262]))
NORM = st.sampled_from(["ortho", "backward", "forward"])
DTYPE = st.sampled_from([torch.float32, torch.float64])
BATCH = st.lists(st.integers(1, 3), max_size=2).map(tuple)


@st.composite
def corners(draw: st.DrawFn) -> tuple[tuple[int, ...], tuple[int, int]]:
    torch.manual_seed(draw(st.integers(0, 2**16)))  # the values too belong to the example, so that it can be replayed
    m, n = draw(LENGTH), draw(LENGTH)
    return (*draw(BATCH), m, n), (draw(st.integers(1, m)), draw(st.integers(1, n)))


def random(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    return torch.randn(shape, dtype=torch.float64).to(dtype)


@given(corners(), DTYPE, NORM)
def test_round_trip(case, dtype, norm):
    x = random(case[0], dtype)
    back = fk.idct2(fk.dct2(x, norm=norm), norm=norm)
    assert relative_error(back, x) <= 3 * TOLERANCE[dtype]


@pytest.mark.parametrize(
    ("n", "kept"), [(101, 101), (201, 201), (421, 211), (509, 127), (1019, 1019), (384, 384), (1024, 256)]
)
def test_no_element_is_far_off(n, kept):
    """Each within 8 eps of itself or of the root mean square: long chains of sums show in some elements first."""
    x, most = random((2048, n), torch.float32), 8 * torch.finfo(torch.float32).eps
    for op, lanes in ((lambda v: fk.dct(v, kept), x), (lambda v: fk.idct(v, n), x[:, :kept])):
        exact = op(lanes.double())
        scale = exact.abs().clamp_min(exact.square().mean().sqrt())
        assert ((op(lanes) - exact).abs() / scale).max() <= most


@pytest.mark.parametrize("n", [30, 97, 384, 1019, 1024, 2038])
def test_a_power_of_two_scales_the_result(n):
    """Exactly: no step leaves float32's range long before the values do."""
    x, small = random((5, n), torch.float32), 2.0**-80
    for op in (lambda v: fk.dct(v, (n + 1) // 2), lambda v: fk.idct(v[:, : n // 2], n)):
        assert torch.equal(op(x * small), op(x) * small)
        assert relative_error(op(x * 2.0**-105), op(x.double()) * 2.0**-105) <= TOLERANCE[torch.float32]


@given(corners(), DTYPE, NORM)
def test_crop_of_pad_is_the_identity(case, dtype, norm):
    shape, k = case
    x = random((*shape[:-2], *k), dtype)
    assert relative_error(fk.dct_crop(fk.idct_pad(x, shape[-2:], norm=norm), k, norm=norm), x) <= 3 * TOLERANCE[dtype]


@given(corners(), DTYPE)
def test_parseval(case, dtype):
    x = random(case[0], dtype)
    energy = fk.dct2(x).double().square().sum() / x.double().square().sum()
    assert abs(energy - 1) <= 3 * TOLERANCE[dtype]


@given(corners(), DTYPE, NORM)
def test_pad_is_the_adjoint_of_crop(case, dtype, norm):
    """<dct_crop(x), y> = <x, idct_pad(y)>, for the other norms with the adjoint norm."""
    shape, k = case
    x, y = random(shape, dtype), random((*shape[:-2], *k), dtype)
    adjoint = norm if norm == "ortho" else f"adjoint:{norm}"
    forward, backward = fk.dct_crop(x, k, norm=norm).double(), fk.idct_pad(y, shape[-2:], norm=adjoint).double()
    scale = x.double().norm() * backward.norm()  # not forward's norm: what is kept can be small by cancellation
    assert abs((forward * y).sum() - (x * backward).sum()) <= 4 * TOLERANCE[dtype] * scale
    forward, backward = fk.idct_pad(y, shape[-2:], norm=norm).double(), fk.dct_crop(x, k, norm=adjoint).double()
    scale = forward.norm() * x.double().norm()
    assert abs((forward * x).sum() - (y * backward).sum()) <= 4 * TOLERANCE[dtype] * scale


@given(corners(), NORM)
def test_separability(case, norm):
    shape, k = case
    x = random(shape, torch.float64)
    by_axis = fk.dct(fk.dct(x, k[1], -1, norm=norm), k[0], -2, norm=norm)
    assert relative_error(fk.dct_crop(x, k, norm=norm), by_axis) <= 2e-14
    other_order = fk.dct(fk.dct(x, k[0], -2, norm=norm), k[1], -1, norm=norm)
    assert relative_error(by_axis, other_order) <= 2e-14
    by_axis = fk.idct(fk.idct(x, shape[-2] + 3, -2, norm=norm), shape[-1] + 5, -1, norm=norm)
    assert relative_error(fk.idct_pad(x, (shape[-2] + 3, shape[-1] + 5), norm=norm), by_axis) <= 2e-14


@given(corners(), DTYPE)
def test_crop_is_a_slice_of_the_full_transform(case, dtype):
    shape, k = case
    x = random(shape, dtype)
    full = fk.dct2(x.double())
    rms = x.double().square().mean().sqrt().item()
    assert_matches(fk.dct_crop(x, k), full[..., : k[0], : k[1]], dtype=dtype, tolerance=2 * TOLERANCE[dtype], rms=rms)


@given(corners(), DTYPE)
def test_lowpass_is_an_orthogonal_projection(case, dtype):
    shape, k = case
    x = random(shape, dtype)
    low = fk.lowpass(x, k)
    assert (fk.lowpass(low, k) - low).double().norm() <= 4 * TOLERANCE[dtype] * x.double().norm()
    rest = (x - low).double()
    assert abs((low * rest).sum()) <= 4 * TOLERANCE[dtype] * x.double().square().sum()
    kept = fk.dct_crop(x.double(), k)
    assert (fk.dct_crop(low, k) - kept).norm() <= 4 * TOLERANCE[dtype] * x.double().norm()
    assert abs(low.double().square().sum() - kept.square().sum()) <= 4 * TOLERANCE[dtype] * x.double().square().sum()


@given(corners(), DTYPE)
def test_reference_defines_the_ops(case, dtype):
    shape, k = case
    x, y = random(shape, dtype), random((*shape[:-2], *k), dtype)
    size = (k[0] + 3, max(1, k[1] - 2))
    for got, expected, source in (
        (fk.dct_crop(x, k), fk.reference.dct_crop(x, k), x),
        (fk.idct_pad(y, shape[-2:]), fk.reference.idct_pad(y, shape[-2:]), y),
        (fk.dct_resize(x, size, k=k), fk.reference.dct_resize(x, size, k=k), x),
    ):
        assert_matches(got, expected, dtype=dtype, rms=source.double().square().mean().sqrt().item())


@pytest.mark.parametrize("u", [0, 1, 5, 31])
def test_a_basis_vector_gives_one_coefficient(u):
    n = 64
    wave = fk.reference.basis(n)[u]
    expected = torch.zeros(n, dtype=torch.float64)
    expected[u] = 1
    torch.testing.assert_close(fk.dct(wave), expected, rtol=0, atol=2e-15)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_deterministic_bit_for_bit(dtype):
    x = torch.randn(301, 510).to(dtype)
    first = fk.dct_crop(x, (120, 77)), fk.idct_pad(x, (400, 600)), fk.dct_resize(x, (64, 700))
    for _ in range(5):
        again = fk.dct_crop(x, (120, 77)), fk.idct_pad(x, (400, 600)), fk.dct_resize(x, (64, 700))
        assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


def test_the_number_of_threads_changes_nothing():
    x = torch.randn(500, 301)
    threads = torch.get_num_threads()
    try:
        results = []
        for n in (1, 2, 3):
            torch.set_num_threads(n)
            results.append(fk.dct_crop(x, (200, 100)))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


@pytest.mark.parametrize("n", [1 << 12, 1 << 16, 3 * 5087, 50257, 151936])
def test_long_axes_keep_their_accuracy(n):
    """Against exact sums: a pure wave of frequency u has one coefficient, sqrt(n/2) cos-weighted, all others 0."""
    u = n // 3
    i = torch.arange(n, dtype=torch.int64)
    wave = torch.cos(((2 * i + 1) * u % (4 * n)).double() * (math.pi / (2 * n)))
    expected = torch.zeros(n, dtype=torch.float64)
    expected[u] = math.sqrt(n / 2)
    assert relative_error(fk.dct(wave), expected) <= 2e-14
    assert relative_error(fk.dct(wave.float()), expected) <= 3e-7
