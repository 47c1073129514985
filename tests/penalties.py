"""The penalty of FRONT's refinement written down densely in float64, and a model with parameters of every kind."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from front_kernels import reference
from models import as_matrix

Rates = tuple[float, float, float]


def dense_stack(xs: Sequence[Tensor], kept: Sequence[int], decay: Rates | None, standardize: bool) -> Tensor:
    """``sum (1 - w) C^2`` of the layers xs (of any shape), with C their coefficients along layers, rows, columns."""
    layers = []
    for x in xs:
        matrix = as_matrix(x).to(torch.float64)
        if standardize:
            constant = matrix.numel() == 1 or bool((matrix == matrix[0, 0]).all())
            matrix = 0 * matrix if constant else (matrix - matrix.mean()) / (matrix.std() + 1e-8)
        layers.append(matrix)
    c = reference.dct(reference.dct2(torch.stack(layers)), None, 0)
    w = torch.ones(c.shape, dtype=torch.float64)
    for axis, (n, k) in enumerate(zip(c.shape, kept, strict=True)):
        u = torch.arange(n, dtype=torch.float64)
        factor = torch.exp(-(decay or (0.0, 0.0, 0.0))[axis] * u / n).masked_fill(u >= k, 0)
        w = w * factor.view([-1 if d == axis else 1 for d in range(3)])
    return ((1 - w) * c.square()).sum()


def dense_penalty(
    model: nn.Module,
    *,
    keep_ratio: float | None = None,
    k: int | tuple[int, int] | None = None,
    weighting: str = "box",
    decay: float | tuple[float, ...] | None = None,
    depth: bool | int = False,
    standardize: bool = True,
    reduction: str = "sum",
) -> Tensor:
    """SpectralRegularizer(model, ...)() for models whose layers are numbered once, in their names' first number."""
    roles: dict[str, list[Tensor]] = defaultdict(list)
    for name, param in model.named_parameters():
        if param.requires_grad:
            roles[re.sub(r"\.\d+\.", ".{}.", name, count=1) if depth else name].append(param)
    rates: Rates | None = None
    if weighting == "exponential":
        given = (decay,) * 3 if isinstance(decay, (int, float)) else tuple(decay or ())
        rates = (0.0, *given) if len(given) == 2 else given  # type: ignore[assignment]
    ks = (k, k) if isinstance(k, int) else k
    total, count = torch.zeros((), dtype=torch.float64), 0
    for layers in roles.values():
        shape = as_matrix(layers[0]).shape
        if keep_ratio is not None:
            kept = [max(1, int(n * keep_ratio)) for n in (len(layers), *shape)]
        elif ks is not None:
            kept = [len(layers), min(ks[0], shape[0]), min(ks[1], shape[1])]
        else:
            kept = [len(layers), *shape]
        if depth is not True:
            kept[0] = min(depth, len(layers)) if depth else len(layers)
        if not depth and rates is not None:
            rates = (0.0, *rates[1:])
        total = total + dense_stack(layers, kept, rates, standardize)
        count += sum(layer.numel() for layer in layers)
    return total / count if reduction == "mean" else total


def unshifted(xs: Sequence[Tensor], k: Sequence[int], only_rows: bool = False) -> tuple[Tensor, Tensor]:
    """The CPU's first half as if it had subtracted nothing: coefficients, and (mean, energy, constant)."""
    c, spreads = torch.ops.front._spectral_crop(list(xs), list(k), only_rows)
    m, n = xs[0].shape
    if only_rows:
        c[:, :, 0] += spreads[:, 3:] * math.sqrt(n)
    else:
        c[:, 0, 0] += spreads[:, 3] * math.sqrt(m * n)
    return c, spreads[:, :3]


class Block(nn.Module):
    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.fc1, self.norm, self.fc2 = nn.Linear(width, inner), nn.LayerNorm(inner), nn.Linear(inner, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.fc2(self.norm(self.fc1(x)).relu())


class Mixed(nn.Module):
    """Matrices, vectors (of length 2 too), conv weights, 3-D, and with `scalar` a scalar; layers that repeat."""

    def __init__(self, depth: int = 3, width: int = 10, inner: int = 22, scalar: bool = True) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Block(width, inner) for _ in range(depth)])
        self.conv = nn.Conv2d(3, 7, (3, 2))
        self.token = nn.Parameter(torch.randn(1, 1, width))
        self.positions = nn.Parameter(torch.randn(2, 5, width) * 0.02)
        self.scale = nn.Parameter(torch.tensor(1.5)) if scalar else 1.5
        self.head = nn.Linear(width, 2)
        # A fresh norm is constant, and has no penalty.
        for i, block in enumerate(self.blocks[1:]):
            nn.init.normal_(block.norm.weight, 1, 0.1 + i)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        image = x.new_ones(1, 3, 4, 4)
        rest = self.conv(image).square().mean() + (self.positions * self.token).sum()
        return self.scale * self.head(x).square().mean() + rest


def gradients(loss: Tensor, model: nn.Module) -> list[Tensor]:
    """With respect to what requires grad; zeros where the loss does not depend on it."""
    params = [param for param in model.parameters() if param.requires_grad]
    found = torch.autograd.grad(loss, params, allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for p, g in zip(params, found, strict=True)]


def assert_close(actual: Sequence[Tensor], expected: Sequence[Tensor], tolerance: float) -> None:
    """Each, in relative L2 error. Of one that is hardly there, relative to the largest."""
    largest = max(float(e.double().norm()) / math.sqrt(e.numel()) for e in expected if e.numel())
    assert len(actual) == len(expected)
    assert largest > 0
    for i, (a, e) in enumerate(zip(actual, expected, strict=True)):
        assert a.shape == e.shape
        if e.numel() == 0:
            continue
        scale = max(float(e.double().norm()), 1e-2 * largest * math.sqrt(e.numel()))
        error = float((a.double() - e.double()).norm()) / scale
        assert error <= tolerance, f"{i}, shape {tuple(a.shape)}: {error:.3g} > {tolerance:.3g}"
