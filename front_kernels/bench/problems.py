"""A case with its tensors, and whether a result is right: by the definition in float64."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import front_kernels as fk

from .cases import Case
from .peers import dct, idct, torch_padded

__all__ = ["Problem", "copies_for", "errors", "problem", "same_everywhere", "tensor", "tolerance", "verified"]

ELEMENT = 16  # times the tolerance: of the worst element, relative to it or to the root mean square
COPIES = 128  # at most
SAMPLE = 32  # rows and columns of a result that is too large to compute by the definition
# Products and basis elements in float64 that are worth a second or two.
AFFORDED = {"cpu": (1e10, 1 << 25), "cuda": (2e12, 1 << 27)}
Index = tuple[Any, ...]


def tolerance(case: Case, device: torch.device, engine: str | None = None) -> float:
    """Relative L2 error of a matrix that the accuracy contract allows; of float32, products have more (1e-6).

    `engine`: of a GPU; None if it may be any.
    """
    single = 5e-7 if device.type == "cpu" or engine == "cuda" else 1e-6
    return {"float16": 2.0**-11, "bfloat16": 2.0**-8, "float32": single, "float64": 2e-14}[case.dtype]


def errors(result: Tensor, exact: Tensor) -> tuple[float, float]:
    """Of the worst matrix the relative L2 error, of the worst element |difference| / max(|exact|, rms)."""
    if result.shape != exact.shape:
        raise ArithmeticError(f"wrong shape {tuple(result.shape)}, expected {tuple(exact.shape)}")
    difference = (result.double() - exact).abs()
    rms = exact.square().mean((-2, -1), keepdim=True).sqrt()
    relative = difference.square().mean((-2, -1), keepdim=True).sqrt() / rms
    return float(relative.max()), float((difference / torch.maximum(exact.abs(), rms)).max())


def tensor(result: Tensor | Sequence[Tensor]) -> Tensor:
    return result if isinstance(result, Tensor) else torch.stack(list(result))


@dataclass(frozen=True)
class Problem:
    case: Case
    inputs: list[Tensor]  # copies of one input [m, n] or [count, m, n]
    outs: list[Tensor]
    exact: list[tuple[Index, Tensor]]  # parts of the result in float64, and where they are in it

    def run(self, i: int) -> Tensor | list[Tensor]:
        """The op on copy i, into outs[i] where it has out=."""
        case, x, out = self.case, self.inputs[i], self.outs[i]
        if case.op == "dct_crop":
            return fk.dct_crop(x, case.kept, out=out)
        if case.op == "idct_pad":
            return fk.idct_pad(x, case.size, out=out)
        if case.op == "dct_resize":
            return fk.dct_resize(x, case.result, k=case.kept, out=out)
        if case.op == "lowpass":
            return fk.lowpass(x, case.kept)
        assert case.op == "dct_crop_many", case.op
        return fk.dct_crop_many(list(x.unbind()), case.kept)

    def errors(self, result: Tensor) -> tuple[float, float]:
        """The worst of all parts; ArithmeticError if the shape is wrong."""
        if result.shape != self.outs[0].shape:
            raise ArithmeticError(f"wrong shape {tuple(result.shape)}, expected {tuple(self.outs[0].shape)}")
        relative, element = zip(*(errors(result[index], exact) for index, exact in self.exact), strict=True)
        return max_or_nan(relative), max_or_nan(element)


def max_or_nan(values: Sequence[float]) -> float:
    """max() would pass over a NaN."""
    return math.nan if any(map(math.isnan, values)) else max(values)


def problem(case: Case, device: torch.device, copies: int) -> Problem:
    batch = (case.count,) if case.count > 1 else ()
    generator = torch.Generator(device).manual_seed(0)
    dtype = getattr(torch, case.dtype)
    x = torch.randn((*batch, *case.source), device=device, generator=generator).to(dtype)
    outs = [torch.full((*batch, *case.result), math.nan, dtype=dtype, device=device) for _ in range(copies)]
    return Problem(case, [x, *(x.clone() for _ in range(copies - 1))], outs, exact(case, x))


def exact(case: Case, x: Tensor) -> list[tuple[Index, Tensor]]:
    """By the definition, two products with the basis in float64, where x is; of what is too large for that a sample."""
    (m, n), (k0, k1) = case.size, case.kept
    products, elements = AFFORDED[x.device.type]
    affordable = case.count * m * k1 * (n + k0) <= products and m * k0 + n * k1 <= elements
    if not affordable and case.op not in ("lowpass", "dct_resize"):
        return sampled(case, x)
    with torch.device(x.device):
        if case.op in ("dct_crop", "dct_crop_many"):
            return [((...,), fk.reference.dct_crop(x, case.kept))]
        if case.op == "idct_pad":
            return [((...,), fk.reference.idct_pad(x, case.size))]
        return [((...,), fk.reference.dct_resize(x, case.result, k=case.kept))]


def entries(n: int, u: Tensor, i: Tensor) -> Tensor:
    """Rows u and columns i of ``D_n`` (reference.basis): float64, shape [len(u), len(i)]."""
    angle = ((2 * i + 1) * u[:, None]) % (4 * n)
    d = torch.cos(angle.double() * (math.pi / (2 * n))) * math.sqrt(2 / n)
    d[u == 0] = math.sqrt(1 / n)
    return d


def sampled(case: Case, x: Tensor) -> list[tuple[Index, Tensor]]:
    """Some whole rows and some whole columns of the result of a crop or padding, so that each row and each column is
    seen: one axis by the definition, the other by torch.fft in float64."""
    (m, n), (k0, k1) = case.size, case.kept
    generator = torch.Generator().manual_seed(1)

    def some(count: int) -> Tensor:
        chosen = torch.randint(count, (SAMPLE - 2,), generator=generator)
        both: Tensor = torch.cat([chosen, torch.tensor([0, count - 1])]).unique()
        return both.to(x.device)

    rows, columns = some(case.result[0]), some(case.result[1])
    wide = x.double()
    if case.op == "idct_pad":
        kept0, kept1 = torch.arange(k0, device=x.device), torch.arange(k1, device=x.device)
        across = entries(m, kept0, rows).mT @ wide
        down = (wide @ entries(n, kept1, columns)).mT
        parts = idct(torch_padded(across, (len(rows), n))), idct(torch_padded(down, (len(columns), m))).mT
    else:
        all0, all1 = torch.arange(m, device=x.device), torch.arange(n, device=x.device)
        across = entries(m, rows, all0) @ wide
        down = (wide @ entries(n, columns, all1).mT).mT
        parts = dct(across)[..., :k1], dct(down)[..., :k0].mT
    return [((..., rows, slice(None)), parts[0]), ((..., columns), parts[1])]


def verified(p: Problem, run: Callable[[int], Any] | None = None, limit: float | None = None) -> dict[str, object]:
    """The errors of the first copy's result, by the op or by `run`; ArithmeticError if it is wrong.

    `limit`: of the relative L2 error, if it is not what any engine may have.
    """
    relative, element = p.errors(tensor((run or p.run)(0)))
    limit = tolerance(p.case, p.outs[0].device) if limit is None else limit
    if not (relative <= limit and element <= ELEMENT * limit):
        raise ArithmeticError(
            f"wrong: relative L2 error {relative:.2g} (allowed {limit:.2g}), of the worst element {element:.2g} "
            f"(allowed {ELEMENT * limit:.2g})"
        )
    eps = torch.finfo(p.outs[0].dtype).eps
    return {"relative_error": f"{relative:.2g}", "element_error": f"{element / eps:.1f}"}


def same_everywhere(p: Problem) -> None:
    """All copies give the same bits; ArithmeticError if not."""
    expected = tensor(p.run(0)).clone()
    for i in range(len(p.inputs)):
        if not torch.equal(tensor(p.run(i)), expected):
            raise ArithmeticError(f"wrong: the result of copy {i} is not that of copy 0")


def copies_for(case: Case, cache_bytes: int) -> int:
    """How many copies make four times the cache."""
    return min(COPIES, max(2, math.ceil(4 * cache_bytes / case.bytes)))
