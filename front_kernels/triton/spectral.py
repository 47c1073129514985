"""The two halves of the spectral loss: plans of plan.py, in which the kernels that meet x are spectral_kernels.py's."""

from __future__ import annotations

import functools
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .._spectral_gpu import spreads_of, typical_values
from . import kernels, launch, spectral_kernels, tiles
from .basis import Key
from .layouts import Batch, Layout, Plan, Side, Target, _compute_dtype
from .plan import _Builder

__all__ = ["crop", "residual_"]

TERMS, SHIFTS = -1, -2
"""The slots of factor, slope, mean and shift, and of the shifts alone."""


class _Found(NamedTuple):
    plan: Plan
    sums: int  # the temporary with the programs' sums, and how many they are
    size: int


class _First(_Builder):
    """Forward; what reads x also sums it."""

    sums = size = -1
    wide = torch.float32

    def add(
        self, kernel: Any, grid: int, arguments: dict[str, Any], tensors: dict[str, Side | int], bases: dict[str, Key],
        tile: tiles.Tile,
    ) -> None:  # fmt: skip
        x = tensors.get("x")
        if isinstance(x, Side) and x.slot == "x":
            programs = grid
            if kernel is kernels.axis:  # the programs of the first tile of rows
                height = (arguments["rows"] + 1) // 2 if arguments["FOLD"] else arguments["rows"]
                programs //= -(-height // arguments["BU"])
            self.size = 2 * programs
            self.sums = self.temporary(self.size, self.wide)
            kernel = spectral_kernels.axis if kernel is kernels.axis else spectral_kernels.crop
            tensors = {**tensors, "moments": self.sums, "shifts": SHIFTS}
        super().add(kernel, grid, arguments, tensors, bases, tile)


class _Second(_Builder):
    """Inverse; what would write the result blends it."""

    sums = size = -1
    w: Side
    out: Side
    write: bool
    wide = torch.float32

    def pad_tile(self, tile: tiles.Tile) -> tiles.Tile:
        # Registers hold tiles of x and of the gradient as well.
        return tile._replace(lanes=max(16, tile.lanes // 2))

    def add(
        self, kernel: Any, grid: int, arguments: dict[str, Any], tensors: dict[str, Side | int], bases: dict[str, Key],
        tile: tiles.Tile,
    ) -> None:  # fmt: skip
        out = tensors.get("out")
        if isinstance(out, Side) and out.slot == self.out.slot:
            same = (out.sizes, out.strides) == (self.out.sizes, self.out.strides)
            w = self.w if same else self.w.swapped()
            first = "i" if kernel is kernels.pad else "u"
            arguments = {
                **{name: value for name, value in arguments.items() if name != "FOLD"},
                f"w_{first}": w.strides[0], "w_l": w.strides[1], "WRITE": self.write,
            }  # fmt: skip
            self.size = grid
            self.sums = self.temporary(self.size, self.wide)
            kernel = spectral_kernels.pad if kernel is kernels.pad else spectral_kernels.axis_back
            tensors = {**tensors, "w": w, "coefficients": TERMS, "squares": self.sums}
        super().add(kernel, grid, arguments, tensors, bases, tile)


def _sides(x: Layout, slot: str, grouped: bool) -> Side:
    return Side(slot, x.dtype, x.shape, x.strides, (0, 0), grouped)  # type: ignore[arg-type]


@functools.lru_cache(maxsize=1024)
def _first(x: Layout, out: Layout, count: int, only_rows: bool, target: Target, aligned: bool) -> _Found:
    builder = _First(target, Batch(1, 1, count, aligned), "ortho")
    builder.wide = _compute_dtype(x.dtype, out.dtype)
    one, two = _sides(x, "x", count > 1), _sides(out, "out", count > 1)
    if only_rows:
        builder.axis(one.swapped(), two.swapped(), False)
    else:
        builder.forward(one, two)
    return _Found(builder.plan(), builder.sums, builder.size)


@functools.lru_cache(maxsize=1024)
def _second(
    x: Layout, w: Layout, out: Layout | None, count: int, only_rows: bool, target: Target, aligned: bool
) -> _Found:
    builder = _Second(target, Batch(1, 1, count, aligned), "ortho")
    builder.wide = _compute_dtype(x.dtype, w.dtype)
    one = _sides(x, "x", count > 1)
    builder.w = _sides(w, "w", count > 1)
    builder.write = out is not None
    # Without a gradient nothing is written; x stands in its place.
    builder.out = replace(builder.w, slot="out") if out is None else _sides(out, "out", count > 1)
    if only_rows:
        builder.axis(one.swapped(), builder.out.swapped(), True)
    else:
        builder.inverse(one, builder.out, False)
    return _Found(builder.plan(), builder.sums, builder.size)


def _aligned(*lists: Sequence[Tensor]) -> bool:
    return all(t.data_ptr() % 16 == 0 for tensors in lists for t in tensors)


def _groups(*lists: Sequence[Tensor]) -> list[list[int]]:
    """Which tensors have one layout, by their places."""
    groups: dict[Any, list[int]] = defaultdict(list)
    for i, members in enumerate(zip(*lists, strict=True)):
        groups[tuple(Layout.of(t) for t in members)].append(i)
    return list(groups.values())


def _part(tensor: Tensor, places: list[int]) -> Tensor:
    """Rows of a small tensor. NOTE: places on the device would be copied there, and waited for."""
    return tensor if len(places) == len(tensor) else torch.stack([tensor[i] for i in places])


def _ordered(parts: list[tuple[list[int], Tensor]]) -> Tensor:
    """What was found for tensors at places, in the tensors' order."""
    if len(parts) == 1:
        return parts[0][1]
    rows = {i: row for places, found in parts for i, row in zip(places, found.unbind(0), strict=True)}
    return torch.stack([rows[i] for i in range(len(rows))])


def crop(xs: Sequence[Tensor], k: Sequence[int], only_rows: bool, target: Target) -> tuple[Tensor, Tensor]:
    """Coefficients [count, rows, k1] and spreads [count, 4], in one read of every x: see csrc/ops.cpp."""
    m, n = xs[0].shape
    wide = _compute_dtype(xs[0].dtype, torch.float32)
    shifts = typical_values(xs)
    coefficients = xs[0].new_empty((len(xs), m if only_rows else k[0], k[1]), dtype=wide)
    blocks = coefficients.unbind(0)
    parts = []
    for places in _groups(xs):
        some, outs = [xs[i] for i in places], [blocks[i] for i in places]
        found = _first(Layout.of(some[0]), Layout.of(outs[0]), len(some), only_rows, target, _aligned(some, outs))
        slots = launch.carry_out(found.plan, some, outs, more={SHIFTS: _part(shifts, places)})
        parts.append((places, slots[found.sums][: found.size].view(len(some), -1, 2).sum(1, dtype=torch.float64)))
    if xs[0].dtype != wide:  # they were transformed as they are
        root = math.sqrt(n if only_rows else m * n)
        constant = (shifts * root).to(wide)
        if only_rows:
            coefficients[:, :, 0] -= constant[:, None]
        else:
            coefficients[:, 0, 0] -= constant
    return coefficients, spreads_of(_ordered(parts), shifts, m * n, wide)


def residual_(
    grads: Sequence[Tensor], xs: Sequence[Tensor], coefficients: Tensor, terms: Tensor, only_rows: bool, target: Target
) -> Tensor:
    """Gradients blended and the sums of r^2 [count], in one more read of every x: see csrc/ops.cpp."""
    blocks = coefficients.unbind(0)
    parts = []
    for places in _groups(xs, grads) if grads else _groups(xs):
        some, given = [xs[i] for i in places], [blocks[i] for i in places]
        outs = [grads[i] for i in places] if grads else some
        found = _second(
            Layout.of(given[0]), Layout.of(some[0]), Layout.of(outs[0]) if grads else None, len(some), only_rows,
            target, _aligned(some, given, outs),
        )  # fmt: skip
        slots = launch.carry_out(found.plan, given, outs, more={"w": some, TERMS: _part(terms, places)})
        parts.append((places, slots[found.sums][: found.size].view(len(some), -1).sum(1, dtype=torch.float64)))
    return _ordered(parts)
