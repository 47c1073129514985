"""The Triton engine on a GPU against float64: what the interpreter cannot tell, how precise its products are."""

from __future__ import annotations

import pytest
import torch
from on_gpu import GPU, exact, randn

import front_kernels as fk

if not torch.cuda.is_available():  # whether front_kernels has its own CUDA kernels plays no part
    pytest.skip("no CUDA GPU: torch.cuda.is_available() is false", allow_module_level=True)
if "triton" not in fk.engines.available():
    pytest.skip("Triton is not installed", allow_module_level=True)

REF = fk.reference
HALF, SINGLE, DOUBLE = torch.bfloat16, torch.float32, torch.float64
# Both axes at once and one at a time; tails, primes, long sums, batches.
MATRICES = [
    ((96, 96), (40, 7)),
    ((2, 3, 131, 257), (33, 48)),
    ((1733, 300), (128, 128)),
    ((1000, 333), (130, 17)),
    ((8192, 4096), (64, 32)),
    ((4096, 8192), (256, 300)),
    ((30522, 96), (200, 48)),
]


@pytest.fixture(autouse=True)
def triton_engine():
    with fk.set_engine("triton"):
        yield


def relative(actual: torch.Tensor, expected: torch.Tensor) -> float:
    return float((actual.double() - expected).norm() / expected.norm())


@pytest.mark.parametrize("mean", [0, 1])
@pytest.mark.parametrize("dtype", [SINGLE, HALF, torch.float16, DOUBLE], ids=str)
@pytest.mark.parametrize(("shape", "k"), MATRICES, ids=str)
def test_precision(shape, k, dtype, mean):
    """With a mean, sums grow: then it would show if they were cut off."""
    x = randn(*shape, dtype=dtype) + mean
    out = DOUBLE if dtype == DOUBLE else SINGLE
    limit = {SINGLE: 1e-6, DOUBLE: 2e-14}.get(dtype, 1e-5)
    crop = exact(REF.dct_crop, x, k)
    back = exact(REF.idct_pad, x[..., : k[0], : k[1]], shape[-2:])
    highest = [
        relative(fk.dct_crop(x, k, out_dtype=out), crop),
        relative(fk.idct_pad(x[..., : k[0], : k[1]], shape[-2:], out_dtype=out), back),
    ]
    with fk.set_precision("fast"):
        fast = [
            relative(fk.dct_crop(x, k, out_dtype=out), crop),
            relative(fk.idct_pad(x[..., : k[0], : k[1]], shape[-2:], out_dtype=out), back),
        ]
    print(f"{shape} {k} {dtype} mean {mean}: highest {highest}, fast {fast}")
    assert max(highest) <= limit
    assert max(fast) <= max(3e-3, limit)


@pytest.mark.parametrize(
    ("shape", "k", "dtype"),
    [((8192, 4096), (64, 32), SINGLE), ((4096, 8192), (256, 300), HALF), ((4096, 8192), (256, 300), SINGLE),
     ((300, 200), (140, 40), HALF)],
    ids=str,
)  # fmt: skip
def test_tensors_that_begin_anywhere(shape, k, dtype):
    """Alone, and one of a list."""
    m, n = shape
    room = randn(m * n + 1, dtype=dtype)
    x, limit = room[1:].view(m, n), 1e-6 if dtype == SINGLE else 1e-5
    assert x.data_ptr() % 16
    expected = exact(REF.dct_crop, x, k)
    out = torch.empty(k[0] * k[1] + 1, device=GPU)[1:].view(k)
    fk.dct_crop(x, k, out=out)
    assert relative(out, expected) <= limit
    for found in fk.dct_crop_many([x, x.clone()], k, out_dtype=SINGLE):
        assert relative(found, expected) <= limit
    back = exact(REF.idct_pad, x[: k[0], : k[1]], shape)
    assert relative(fk.idct_pad(x[: k[0], : k[1]], shape, out_dtype=SINGLE), back) <= limit


@pytest.mark.parametrize("layout", ["rows", "every second", "transposed"])
@pytest.mark.parametrize("k", [(24, 40), (140, 40)])
def test_layouts(k, layout):
    x = {
        "rows": lambda: randn(2, 300, 200),
        "every second": lambda: randn(2, 600, 400)[:, ::2, ::2],
        "transposed": lambda: randn(2, 200, 300).mT,
    }[layout]()
    assert relative(fk.dct_crop(x, k), exact(REF.dct_crop, x, k)) <= 1e-6
    assert relative(fk.lowpass(x, k), exact(REF.lowpass, x, k)) <= 1e-6
    for dim in (0, 1, 2):
        n = x.shape[dim]
        assert relative(fk.dct(x, (n + 1) // 2, dim), exact(REF.dct, x, (n + 1) // 2, dim)) <= 1e-6
        assert relative(fk.idct(x, n + 5, dim), exact(REF.idct, x, n + 5, dim)) <= 1e-6


@pytest.mark.parametrize("k", [(24, 40), (140, 40)])
def test_lists_and_in_place(k):
    xs = [randn(300, 200) for _ in range(20)]
    for x, out in zip(xs, fk.dct_crop_many(xs, k), strict=True):
        assert relative(out, exact(REF.dct_crop, x, k)) <= 1e-6
    x = xs[0].clone()
    fk.lowpass_(x, k)
    assert relative(x, exact(REF.lowpass, xs[0], k)) <= 1e-6
    assert x.device == GPU
