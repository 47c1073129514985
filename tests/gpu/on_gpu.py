"""What the GPU tests share: why they are skipped, tensors, and the float64 definition evaluated on the GPU."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import pytest
import torch

import compare
import front_kernels as fk

GPU = torch.device("cuda", 0)
DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
SENTINEL = -12345.0


def why_skipped() -> str | None:
    if not torch.cuda.is_available():
        return "no CUDA GPU: torch.cuda.is_available() is false"
    if not fk.build_info()["cuda"]:
        return "front_kernels was built without CUDA (FRONT_CUDA=1 demands it)"
    return None


@pytest.fixture(autouse=True)
def cuda_engine() -> Iterator[None]:
    """Where it is imported: these tests are the CUDA engine's."""
    with fk.set_engine("cuda"):
        yield


def assert_matches(
    actual: torch.Tensor, expected: torch.Tensor, *, tolerance: float | None = None, **options: object
) -> None:
    """compare.assert_matches with what the CUDA engine promises: kernels through memory round more than the CPU's."""
    if tolerance is None and actual.dtype != torch.float64:
        tolerance = 5e-7
    compare.assert_matches(actual, expected, tolerance=tolerance, **options)  # type: ignore[arg-type]


def randn(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(shape, dtype=torch.float64).to(dtype).to(GPU)


def exact(function: Callable[..., torch.Tensor], *args: object, **kwargs: object) -> torch.Tensor:
    """A function of front_kernels.reference with its basis on the GPU."""
    with torch.device(GPU):
        return function(*args, **kwargs)


def basis_block(n: int, start: int, stop: int) -> torch.Tensor:
    """Rows of D_n, as reference.basis computes them: all rows of a long one would not fit."""
    i = torch.arange(n, device=GPU)
    u = torch.arange(start, stop, device=GPU)[:, None]
    d = torch.cos(((2 * i + 1) * u % (4 * n)).to(torch.float64) * (math.pi / (2 * n))) * math.sqrt(2 / n)
    if start == 0:
        d[0] = math.sqrt(1 / n)
    return d


def by_blocks(x: torch.Tensor, n: int, k: int, *, inverse: bool) -> torch.Tensor:
    """reference.dct(x, k) or reference.idct(x, n) along the last axis."""
    step = max(1, (1 << 26) // n)
    blocks = ((start, basis_block(n, start, min(k, start + step))) for start in range(0, k, step))
    wide = x.to(torch.float64)
    if inverse:
        return sum(wide[..., start : start + len(d)] @ d for start, d in blocks)
    return torch.cat([wide @ d.mT for _, d in blocks], -1)
