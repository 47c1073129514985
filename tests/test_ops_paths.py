"""What the engine chooses by size, against float64: stores around the caches, order of the axes, few coefficients."""

from __future__ import annotations

import pytest
import scipy.fft
import torch

import front_kernels as fk
from front_kernels import _C

# More than a shared cache is counted on to hold (32 MiB), so that both passes write around it.
LARGE = (2304, 4096)


def relative(result: torch.Tensor, exact: torch.Tensor) -> float:
    return ((result.double() - exact).norm() / exact.norm()).item()


@pytest.fixture(scope="module")
def large() -> tuple[torch.Tensor, torch.Tensor]:
    """A matrix and its coefficients."""
    torch.manual_seed(0)
    x = torch.randn(LARGE)
    return x, torch.from_numpy(scipy.fft.dctn(x.double().numpy(), norm="ortho", workers=2))


def placed(shape: tuple[int, int], offset: int, extra: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Space for a matrix, `offset` elements from the start of its rows, which have `extra` more at their end."""
    return torch.full((shape[0], shape[1] + offset + extra), -7.0, dtype=dtype)[:, offset : offset + shape[1]]


# On cache lines; rows that begin in the middle of one; rows of odd length; bfloat16 lines hold twice as many.
@pytest.mark.parametrize(("offset", "extra"), [(0, 0), (16, 16), (3, 13), (0, 1)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_results_larger_than_the_caches(large, offset, extra, dtype):
    x, exact = large
    out = placed(LARGE, offset, extra, dtype)
    fk.dct2(x, out=out)
    if dtype == torch.float32:
        assert relative(out, exact) <= 3e-7
    else:  # every element is the nearest there is, or next to it where the exact value is near the middle
        assert ((out.double() - exact).abs() <= torch.finfo(dtype).eps / 2 * exact.abs() + 1e-5).all()
    whole = out._base if out._base is not None else out
    untouched = torch.ones_like(whole, dtype=torch.bool)
    untouched[:, offset : offset + LARGE[1]] = False
    assert (whole[untouched] == -7).all()


def test_straight_around_the_caches_or_through_the_work_array(large):
    """Coefficients that are written as they come, each a whole line, are those of the other way, bit for bit."""
    x, _ = large
    aligned, unaligned = placed(LARGE, 0, 0), placed(LARGE, 3, 13)
    assert torch.equal(fk.dct2(x, out=aligned), fk.dct2(x, out=unaligned))


@pytest.mark.parametrize("k", [LARGE, (2304, 4090), (2299, 4096), (1100, 2050)])
def test_there_and_back_beyond_the_caches(large, k):
    x, exact = large
    kept = fk.dct_crop(x, k)
    assert relative(kept, exact[: k[0], : k[1]]) <= 3e-7
    padded = torch.zeros_like(exact)
    padded[: k[0], : k[1]] = kept.double()
    back = torch.from_numpy(scipy.fft.idctn(padded.numpy(), norm="ortho", workers=2))
    assert relative(fk.idct_pad(kept, LARGE), back) <= 3e-7
    assert relative(fk.lowpass(x, k), back) <= 1e-6  # of x's own float32 coefficients
    inside = x.clone()
    fk.lowpass_(inside, k)
    assert relative(inside, back) <= 1e-6


def test_in_place_beyond_the_caches(large):
    x, exact = large
    inside = x.clone()
    fk.dct2_(inside)
    assert relative(inside, exact) <= 3e-7
    fk.idct2_(inside)
    assert relative(inside, x.double()) <= 1e-6


# Wide enough for blocks side by side, of both orders of the axes.
@pytest.mark.parametrize(
    ("shape", "k"),
    [((700, 1000), (20, 1000)), ((700, 1000), (700, 30)), ((1024, 520), (1024, 520)), ((96, 8200), (96, 8200))],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_both_orders(shape, k, dtype):
    torch.manual_seed(1)
    x = torch.randn(shape, dtype=dtype)
    limit = 3e-7 if dtype == torch.float32 else 2e-14
    exact = torch.from_numpy(scipy.fft.dctn(x.double().numpy(), norm="ortho"))[: k[0], : k[1]]
    assert relative(fk.dct_crop(x, k), exact) <= limit
    padded = torch.zeros(shape, dtype=torch.float64)
    y = torch.randn(k, dtype=dtype)
    padded[: k[0], : k[1]] = y
    assert relative(fk.idct_pad(y, shape), torch.from_numpy(scipy.fft.idctn(padded.numpy(), norm="ortho"))) <= limit


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 8, 17, 33, 512, 1019, 2038, 4096])
@pytest.mark.parametrize("kept", [1, 3, 8, 9, 16])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_few_coefficients(n, kept, dtype):
    """Dense by the cost model for most; long sums must not lose digits."""
    kept = min(kept, n)
    torch.manual_seed(n)
    x = torch.randn(37, n, dtype=dtype) + 100  # the mean is most of it
    limit = 3e-7 if dtype == torch.float32 else 2e-14
    exact = torch.from_numpy(scipy.fft.dct(x.double().numpy(), norm="ortho"))[:, :kept]
    assert relative(fk.dct(x, kept), exact) <= limit
    noise = fk.dct(x - 100, kept)
    assert relative(noise, torch.from_numpy(scipy.fft.dct((x - 100).double().numpy(), norm="ortho"))[:, :kept]) <= limit
    padded = torch.zeros(37, n, dtype=torch.float64)
    padded[:, :kept] = noise
    assert relative(fk.idct(noise, n), torch.from_numpy(scipy.fft.idct(padded.numpy(), norm="ortho"))) <= limit


# Around the pieces that the filters of decimation take (128 values), whole or not; 8 k = n and less, 4 k = n and less.
@pytest.mark.parametrize(
    ("n", "k"),
    [
        *((512, 64), (516, 64), (592, 74), (640, 72), (1028, 128), (4096, 512), (4160, 40)),
        *((1024, 256), (1028, 257), (1084, 260), (2048, 260), (4096, 1024), (11008, 2752)),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("dim", [0, 1])
def test_decimated(n, k, dtype, dim):
    assert _C.plan_axis(n, k)["decimation"] == 2
    torch.manual_seed(n)
    x = torch.randn((n, 83) if dim == 0 else (83, n)).to(dtype)
    limit = 1.7e-7 if dtype == torch.float32 else torch.finfo(dtype).eps  # 1.93e-7 without the filter's flatness
    exact = torch.from_numpy(scipy.fft.dct(x.double().numpy(), axis=dim, norm="ortho")).narrow(dim, 0, k)
    y = fk.dct(x, k, dim=dim)
    assert relative(y, exact) <= limit
    padded = torch.zeros(x.shape, dtype=torch.float64)
    padded.narrow(dim, 0, k).copy_(y)
    back = torch.from_numpy(scipy.fft.idct(padded.numpy(), axis=dim, norm="ortho"))
    assert relative(fk.idct(y, n, dim=dim), back) <= limit
    for at in (0, 127, 128, n - 1):  # within the filter's reach of the ends, and of a piece's
        bad = x.clone()
        bad.select(dim, at)[5] = float("inf")
        assert_only_lane_5_is_bad(fk.dct(bad, k, dim=dim), y, dim)
    bad, whole = y.clone(), fk.idct(y, n, dim=dim)
    bad.select(dim, k - 1)[5] = float("nan")
    assert_only_lane_5_is_bad(fk.idct(bad, n, dim=dim), whole, dim)


def assert_only_lane_5_is_bad(result, without, dim):
    assert not result.select(1 - dim, 5).isfinite().any()
    others = [lane for lane in range(result.shape[1 - dim]) if lane != 5]
    index = torch.tensor(others)
    assert torch.equal(result.index_select(1 - dim, index), without.index_select(1 - dim, index))


# What the last stage is, which the pairs of the spectrum are one step with: every radix, points that are their own
# mirrors or not, once or twice round the spectrum.
@pytest.mark.parametrize(
    ("n", "k"),
    [
        *((50, 25), (50, 50), (80, 40), (80, 80), (100, 50), (250, 125), (250, 250), (48, 24), (144, 40)),
        *((176, 88), (176, 176), (352, 70), (592, 150), (688, 688), (896, 448), (896, 896)),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_last_stages(n, k, dtype):
    torch.manual_seed(n)
    x = torch.randn(37, n, dtype=dtype)
    limit = 3e-7 if dtype == torch.float32 else 2e-15
    exact = torch.from_numpy(scipy.fft.dct(x.double().numpy(), norm="ortho"))[:, :k]
    y = fk.dct(x, k)
    assert relative(y, exact) <= limit
    padded = torch.zeros(37, n, dtype=torch.float64)
    padded[:, :k] = y
    assert relative(fk.idct(y, n), torch.from_numpy(scipy.fft.idct(padded.numpy(), norm="ortho"))) <= limit


@pytest.mark.parametrize("n", [3, 4, 17, 512])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_few_coefficients_of_a_bad_value(n, bad):
    for at in (0, (n - 1) // 2, n - 1):
        x = torch.ones(20, n)
        x[7, at] = bad
        y = fk.dct(x, 2)
        assert not y[7].isfinite().any()
        assert y[:7].isfinite().all()
        assert y[8:].isfinite().all()


@pytest.mark.parametrize(
    ("shape", "k"),
    [
        ((512, 512), (64, 64)),
        ((512, 512), (256, 256)),
        ((1024, 384), (8, 8)),
        ((4096, 64), (512, 8)),
        ((2048, 256), (256, 32)),  # decimated: the last kept coefficient's alias is the first that the filter stops
        ((2048, 1024), (512, 256)),
        ((3084, 520), (300, 65)),
        ((1018, 254), (64, 100)),  # 1018 = 2 * 509
        ((10174, 96), (5087, 40)),  # 10174 = 2 * 5087
        ((301, 77), (40, 30)),
    ],
)
def test_high_frequencies_do_not_leak_into_the_crop(shape, k):
    """Of an input without low frequencies at most 1.5 times the energy remains that a float32 DCT without shortcuts
    (scipy's) leaves."""
    torch.manual_seed(2)
    coefficients = torch.randn(shape, dtype=torch.float64)
    coefficients[: k[0], : k[1]] = 0
    x = torch.from_numpy(scipy.fft.idctn(coefficients.numpy(), norm="ortho")).float()
    plain = torch.from_numpy(scipy.fft.dctn(x.numpy(), norm="ortho"))[: k[0], : k[1]]
    ours = fk.dct_crop(x, k)
    assert 0 < ours.square().sum() <= 1.5 * plain.square().sum()
    assert ours.norm() <= 1e-6 * x.norm()


# Beside the corner a filter that halves an axis stops nothing yet, and the roundings fall on half as many points.
BESIDE = {
    "in rows": lambda k0, k1: (slice(k0), slice(k1, k1 + 32)),
    "in columns": lambda k0, k1: (slice(k0, k0 + 32), slice(k1)),
    "in both": lambda k0, k1: (slice(k0, k0 + 32), slice(k1, k1 + 32)),
}


@pytest.mark.parametrize("where", BESIDE)
@pytest.mark.parametrize(
    ("shape", "k"), [((2048, 1024), (512, 256)), ((1024, 4096), (204, 819)), ((1024, 1024), (128, 128))]
)
def test_frequencies_beside_the_corner(shape, k, where):
    """Only those leave more than 1.5 times the energy: up to 3.5 times that of a DCT in the same order, and 8e-8 of the
    norm at most."""
    coefficients = torch.zeros(shape, dtype=torch.float64)
    part = coefficients[BESIDE[where](*k)]
    part.copy_(torch.randn(part.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(3)))
    x = torch.from_numpy(scipy.fft.idctn(coefficients.numpy(), norm="ortho")).float()
    plain = x.numpy()
    for axis in (1, 0) if fk.plan_for(shape, k)["order"] == "rows first" else (0, 1):
        plain = scipy.fft.dct(plain, axis=axis, norm="ortho").take(range(k[axis]), axis)
    plain = torch.from_numpy(plain)
    ours = fk.dct_crop(x, k)
    print(
        f"energy {ours.square().sum() / plain.square().sum():.2f} of scipy's, {ours.norm() / x.norm():.1e} of the norm"
    )
    assert 0 < ours.square().sum() <= 3.5 * plain.square().sum()
    assert ours.norm() <= 8e-8 * x.norm()
