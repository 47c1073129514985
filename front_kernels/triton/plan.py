"""What an op on matrices of some layout comes to: kernels, grids, arguments, bases and temporaries, without a tensor.

Plans are pure data, made once for a layout and kept; `launch` fills in tensors. Nothing here touches a device.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
import triton
import triton.language as tl

from .. import _costs
from . import kernels, moments, tiles
from .basis import Key, Moments, padded
from .layouts import _KINDS, _TYPES, Batch, Layout, Plan, Side, Step, Target, Temporary, _compute_dtype

__all__ = ["Layout", "Plan", "Step", "Target", "Temporary", "axis", "matrices"]

_UNALIGNED = {"axis_moments": 64, "crop_moments": 32}
"""Most lanes of moments where nothing is known of addresses: loads take more registers there, and on sm_90 with twice
as many lanes 16-bit values (axis) and float32 ones (crop) would be spilled."""
_UNDIVIDED = 1 << 30
"""Of sums: more than any has terms."""


class _Builder:
    """A plan in the making."""

    runs = False  # whether sums may be of moments, and divided

    def __init__(self, target: Target, batch: Batch, norm: str) -> None:
        self.target, self.batch, self.norm = target, batch, norm
        self.exact = torch.float32  # what decides how precise sums are
        self.steps: list[Step] = []
        self.temporaries: list[Temporary] = []
        self.idle: list[int] = []

    def temporary(self, size: int, dtype: torch.dtype) -> int:
        """A new one, or one that no later step reads, the largest of them."""
        fitting = [slot for slot in self.idle if self.temporaries[slot].dtype == dtype]
        found = max(fitting, key=lambda slot: self.temporaries[slot].size, default=None)
        if found is None:
            self.temporaries.append(Temporary(size, dtype))
            return len(self.temporaries) - 1
        self.idle.remove(found)
        self.temporaries[found] = Temporary(max(size, self.temporaries[found].size), dtype)
        return found

    def free(self, slot: str | int) -> None:
        """After the last step that reads it."""
        assert isinstance(slot, int)
        self.idle.append(slot)

    def matrices(self, rows: int, columns: int, dtype: torch.dtype) -> Side:
        """As many temporary matrices as there are in the batch."""
        one = rows * columns
        slot = self.temporary(self.batch.count * one, dtype)
        return Side(slot, dtype, (rows, columns), (columns, 1), (self.batch.inner * one, one))

    def plan(self) -> Plan:
        return Plan(tuple(self.steps), tuple(self.temporaries), self.batch.starts)

    def add(
        self, kernel: Any, grid: int, arguments: dict[str, Any], tensors: dict[str, Side | int], bases: dict[str, Any],
        tile: tiles.Tile,
    ) -> None:  # fmt: skip
        if kernel in (kernels.axis, kernels.axis_moments):
            arguments = {"parts": 1, "segment": _UNDIVIDED, **arguments}
        # NOTE: fusion of multiplications and additions is Triton's default up to 3.9 only.
        options = {"num_warps": tile.warps, "num_stages": tile.stages, "enable_fp_fusion": True}
        common = {"inner": self.batch.inner, "matrices": self.batch.matrices}
        slots = []
        for name, side in tensors.items():
            slots.append((name, side.slot if isinstance(side, Side) else side))
            if isinstance(side, Side):
                common |= {
                    f"{name}_0": side.batch[0],
                    f"{name}_1": side.batch[1],
                    f"{name.upper()}_TYPE": _TYPES[side.dtype],
                    f"{name.upper()}_GROUPED": side.grouped,
                    "ALIGNED": self.batch.aligned,
                }
        self.steps.append(Step(kernel, grid, common | arguments | options, tuple(slots), tuple(bases.items())))

    def axis(self, x: Side, out: Side, inverse: bool) -> None:
        """The first axis of the matrices x transformed into that of out; the second are the lanes."""
        (terms, lanes), rows = x.sizes, out.sizes[0]
        if not inverse and (found := self.moments(terms, rows, lanes, x, out, "axis")) is not None:
            self.axis_moments(x, out, *found)
            return
        n, k = (rows, terms) if inverse else (terms, rows)
        compute = _compute_dtype(x.dtype, out.dtype)
        dot = compute if compute == torch.float64 else x.dtype
        fold = not inverse and n > 1 and self.target.folds(dot, contiguous=x.strides[0] == 1 and x.strides[1] != 1)
        key = Key(n, k, inverse, self.norm, dot, self.target.terms(dot), fold)
        tile = tiles.nearest(self.target.names, "axis", _KINDS[dot], (terms, lanes, rows))
        bu, bj = min(tile.rows, key.shape[2]), min(tile.terms, key.shape[3])
        bl = min(tile.lanes, padded(lanes))
        height = (rows + 1) // 2 if fold else rows
        sums = (terms + 1) // 2 if fold else terms
        grid = triton.cdiv(height, bu) * triton.cdiv(lanes, bl)
        if self.parts(grid, x, out, tile, sums, bj) < 2:
            bu, bl = tiles.spread(bu, bl, height, lanes, self.target.multiprocessors // self.batch.count)
            grid = triton.cdiv(height, bu) * triton.cdiv(lanes, bl)
        arguments = {
            "n": n, "terms": terms, "rows": rows, "lanes": lanes, "x_j": x.strides[0], "x_l": x.strides[1],
            **_strides(key), "FOLD": fold, "DOT": _TYPES[dot], "SUM": _TYPES[compute], "TERMS": key.terms,
            "PRECISION": self.target.products(dot), "BU": bu, "BJ": bj, "BL": bl,
        }  # fmt: skip
        self.divided(kernels.axis, grid, arguments, x, out, {"basis": key}, tile, sums, bj)

    def programs(self, tile: tiles.Tile) -> int:
        """As many as run at a time, about: one of eight warps on each multiprocessor."""
        return self.target.multiprocessors * max(1, 8 // tile.warps)

    def parts(self, grid: int, x: Side, out: Side, tile: tiles.Tile, terms: int, step: int) -> int:
        """How many sums of `terms`, `step` at a time, are divided into; fewer than 2: none are."""
        if not self.runs or x.sizes[0] < _DIVIDED:
            return 0
        wanted = min(self.programs(tile) // (grid * self.batch.count), triton.cdiv(terms, step) // _STEPS)
        # What the parts leave is written and read again: at most a quarter of what they read, in memory as in traffic.
        return min(int(wanted), math.prod(x.sizes) // (4 * math.prod(out.sizes)))

    def divided(
        self, kernel: Any, grid: int, arguments: dict[str, Any], x: Side, out: Side, bases: dict[str, Any],
        tile: tiles.Tile, terms: int, step: int,
    ) -> None:  # fmt: skip
        """One axis, whose sums are divided into parts where there would be fewer programs than multiprocessors."""
        strides = {"out_u": out.strides[0], "out_l": out.strides[1]}
        wanted = self.parts(grid, x, out, tile, terms, step)
        (scale,) = (key.scale for key in bases.values())
        if wanted < 2:
            arguments |= {**strides, "scale": scale}
            self.add(kernel, grid * self.batch.count, arguments, {"x": x, "out": out}, bases, tile)
            return
        segment = triton.cdiv(triton.cdiv(terms, step), wanted) * step
        parts = triton.cdiv(terms, segment)
        rows, lanes = out.sizes
        compute = _compute_dtype(x.dtype, out.dtype)
        one = rows * lanes * parts
        partials = Side(self.temporary(self.batch.count * one, compute), compute, out.sizes, (lanes, 1),
                        (self.batch.inner * one, one))  # fmt: skip
        arguments |= {"out_u": lanes, "out_l": 1, "scale": 1.0, "parts": parts, "segment": segment}
        self.add(kernel, grid * parts * self.batch.count, arguments, {"x": x, "out": partials}, bases, tile)
        self.summed(partials.slot, out, parts, (rows, lanes), scale)

    def summed(self, partials: str | int, out: Side, parts: int, size: tuple[int, int], scale: float) -> None:
        """The sum of a matrix's partial ones, all of a size that may be larger than out."""
        (rows, columns), (ku, kv) = size, out.sizes
        arguments = {
            "parts": parts, "size": rows * columns, "columns": columns, "ku": ku, "kv": kv, "out_u": out.strides[0],
            "out_v": out.strides[1], "scale": scale, "SUM": _TYPES[_compute_dtype(out.dtype, torch.float32)],
            "B": 64, "BP": 32,
        }  # fmt: skip
        grid = triton.cdiv(rows * columns, 64) * self.batch.count
        tile = tiles.Tile(0, 0, 0, 0, warps=4, stages=2)
        self.add(kernels.add, grid, arguments, {"partials": partials, "out": out}, {}, tile)  # type: ignore[dict-item]
        self.free(partials)

    def moments(self, n: int, k: int, lanes: int, x: Side, out: Side, kernel: str) -> tuple[Moments, tiles.Tile] | None:
        """The basis and the tile if sums along x's first axis are better taken of its runs' moments."""
        if not self.runs or x.strides[1] != 1 or n < moments.LONG or torch.float64 in (x.dtype, out.dtype, self.exact):
            return None
        if self.target.precision == "fast":  # one product of the values themselves is as fast, and rounds once
            return None
        if (kernel, _KINDS[x.dtype]) in tiles.forced:  # measured in their place
            return None
        if kernel == "crop" and x.dtype.itemsize == 2:  # two products are the faster: 83 us against 101 on an H200
            return None
        tile = tiles.nearest(self.target.names, f"{kernel}_moments", _KINDS[x.dtype], (n, lanes, k))
        asked = _KINDS[self.exact]
        # In bfloat16 products for each element, a TF32 product being two; of folded sums, half.
        dense = 2.0 if x.dtype.itemsize == 2 else 3.0
        for block in dict.fromkeys((tile.terms, moments.SHORTEST)):
            terms = moments.chosen(n, k, block, asked)
            if terms is not None and moments.products(terms, block) <= dense:
                return Moments(n, k, self.norm, block, terms, moments.needed(n, k, block, asked)), tile
        return None

    def moment_arguments(self, key: Moments, lanes: int, tile: tiles.Tile, x: Side, most: int) -> dict[str, Any]:
        step, term = key.strides
        group = (*key.terms, 0, 0)
        bl = min(tile.lanes if self.batch.aligned else min(tile.lanes, most), padded(lanes))
        return {
            "n": key.n, "lanes": lanes, "x_j": x.strides[0], "x_l": x.strides[1], "step": step, "term": term,
            "BLOCK": key.block, "MOMENTS": key.moments, "GROUP0": group[0], "GROUP1": group[1], "GROUP2": group[2],
            "WHOLE": key.n % (key.block * moments.RUNS) == 0 and lanes % bl == 0, "BL": bl,
        }  # fmt: skip

    def axis_moments(self, x: Side, out: Side, key: Moments, tile: tiles.Tile) -> None:
        """axis, forward, of x's first axis, by the moments of its runs."""
        rows, lanes = out.sizes
        padded_rows = key.shape[2]
        bu = tile.rows if padded_rows % tile.rows == 0 else min(padded_rows, 128)
        arguments = {"rows": rows, "BU": bu, **self.moment_arguments(key, lanes, tile, x, _UNALIGNED["axis_moments"])}
        grid = triton.cdiv(rows, bu) * triton.cdiv(lanes, arguments["BL"])
        runs = triton.cdiv(key.n, key.block)
        self.divided(kernels.axis_moments, grid, arguments, x, out, {"basis": key}, tile, runs, moments.RUNS)

    def crop_moments(self, x: Side, out: Side, key: Moments, tile: tiles.Tile) -> None:
        (n, lanes), (_, kv) = x.sizes, out.sizes
        across = Key(lanes, kv, False, self.norm, torch.float32, 1, False)
        arguments = self.moment_arguments(key, lanes, tile, x, _UNALIGNED["crop_moments"])
        runs, bu, columns = triton.cdiv(n, key.block), key.shape[2], across.shape[2]
        tiles_l = triton.cdiv(lanes, arguments["BL"])
        wanted = max(1, self.programs(tile) // (tiles_l * self.batch.count))
        segment = triton.cdiv(triton.cdiv(runs, wanted), moments.RUNS) * moments.RUNS
        parts = tiles_l * triton.cdiv(runs, segment)
        partials = self.temporary(parts * self.batch.count * bu * columns, torch.float32)
        arguments |= {
            "segment": segment, "lane_basis_v": across.strides[2], "K": bu, "KV": columns, "BU": bu,
            "BV": min(columns, tile.columns), "LANE_PRECISION": self.target.products(torch.float32),
        }  # fmt: skip
        bases = {"basis": key, "lane_basis": across}
        self.add(kernels.crop_moments, parts * self.batch.count, arguments, {"x": x, "partials": partials}, bases, tile)
        self.summed(partials, out, parts, (bu, columns), key.scale * across.scale)

    def crop(self, x: Side, out: Side) -> None:
        """Both axes in one launch, and one for the sum of what its programs found."""
        # The lanes are the contiguous axis: mirrored elements are then read in the same direction.
        if x.strides[0] == 1 and x.strides[1] != 1:
            x, out = x.swapped(), out.swapped()
        (n, lanes), (ku, kv), dot = x.sizes, out.sizes, x.dtype
        if (found := self.moments(n, ku, lanes, x, out, "crop")) is not None:
            self.crop_moments(x, out, *found)
            return
        fold = n > 1 and self.target.folds(dot, contiguous=False)
        key = Key(n, ku, False, self.norm, dot, self.target.terms(dot), fold)
        across = Key(lanes, kv, False, self.norm, torch.float32, 1, False)
        tile = tiles.nearest(self.target.names, "crop", _KINDS[dot], (n, lanes, max(ku, kv)))
        bu, kv_padded = key.shape[2], across.shape[2]
        bj, bl = min(tile.terms, key.shape[3]), min(tile.lanes, across.shape[3])
        k, half = (2 * bu, (n + 1) // 2) if fold else (bu, n)
        # As many programs as there are multiprocessors, or a few more: the partials' size goes with their number.
        tiles_l = triton.cdiv(lanes, bl)
        wanted = max(1, self.target.multiprocessors // (tiles_l * self.batch.count))
        segment = triton.cdiv(triton.cdiv(half, wanted), bj) * bj
        parts = tiles_l * triton.cdiv(half, segment)
        total = parts * self.batch.count
        partials = self.temporary(total * k * kv_padded, torch.float32)
        arguments = {
            "n": n, "rows": n, "lanes": lanes, "x_j": x.strides[0], "x_l": x.strides[1], "segment": segment,
            "lane_basis_v": across.strides[2], **_strides(key), "FOLD": fold, "DOT": _TYPES[dot], "TERMS": key.terms,
            "PRECISION": self.target.products(dot), "LANE_PRECISION": self.target.products(torch.float32),
            "BU": bu, "BJ": bj, "BL": bl, "BV": min(kv_padded, tile.columns),
            "SUM": tl.float32, "K": k, "KV": kv_padded,
        }  # fmt: skip
        bases = {"basis": key, "lane_basis": across}
        self.add(kernels.crop, total, arguments, {"x": x, "partials": partials}, bases, tile)
        self.summed(partials, out, parts, (k, kv_padded), key.scale * across.scale)

    def pad_tile(self, tile: tiles.Tile) -> tiles.Tile:
        return tile

    def pad(self, x: Side, out: Side) -> None:
        """Both axes of the inverse in one launch."""
        if out.strides[0] == 1 and out.strides[1] != 1:
            x, out = x.swapped(), out.swapped()
        (ku, kv), (rows, lanes) = x.sizes, out.sizes
        key = Key(rows, ku, True, self.norm, torch.float32, 1, False)
        across = Key(lanes, kv, True, self.norm, torch.float32, 1, False)
        tile = self.pad_tile(tiles.nearest(self.target.names, "pad", _KINDS[out.dtype], (rows, lanes, max(ku, kv))))
        bi, bl = min(tile.rows, key.shape[2]), min(tile.lanes, across.shape[2])
        tiles_l = triton.cdiv(lanes, bl)
        wanted = max(1, 2 * self.target.multiprocessors // (tiles_l * self.batch.count))
        segment = triton.cdiv(triton.cdiv(rows, wanted), bi) * bi
        arguments = {
            "ku": ku, "kv": kv, "rows": rows, "lanes": lanes, "x_u": x.strides[0], "x_v": x.strides[1],
            "out_i": out.strides[0], "out_l": out.strides[1], "segment": segment, "basis_i": key.strides[2],
            "lane_basis_l": across.strides[2], "scale": key.scale * across.scale, "SUM": tl.float32,
            "PRECISION": self.target.products(torch.float32), "BU": key.shape[3], "KV": across.shape[3],
            "BV": min(tile.columns, across.shape[3]), "BI": bi, "BL": bl,
        }  # fmt: skip
        grid = tiles_l * triton.cdiv(rows, segment) * self.batch.count
        bases = {"basis": key, "lane_basis": across}
        self.add(kernels.pad, grid, arguments, {"x": x, "out": out}, bases, tile)

    def two_passes(self, x: Side, out: Side, inverse: bool) -> None:
        """One axis after the other, in the order that needs fewer products."""
        large, small = (out, x) if inverse else (x, out)
        by_columns = x.strides[0] == 1 and x.strides[1] != 1
        problem = _costs.Problem(self.batch.count, large.sizes, small.sizes, inverse, x.dtype, out.dtype, by_columns)
        rows_first = problem.rows_first(self.target.precision, self.runs)
        if rows_first:
            x, out = x.swapped(), out.swapped()
        size, dtype = (out.sizes[0], x.sizes[1]), _compute_dtype(x.dtype, out.dtype)
        if inverse and not rows_first:
            middle = self.matrices(*size, dtype)
        else:  # the second axis is strided: forward it can be folded or taken by its moments
            middle = self.matrices(*size[::-1], dtype).swapped()
        self.axis(x, middle, inverse)
        self.axis(middle.swapped(), out.swapped(), inverse)
        self.free(middle.slot)

    def forward(self, x: Side, out: Side) -> None:
        if _fits_one_pass(out.sizes, x.dtype, out.dtype):
            self.crop(x, out)
        else:
            self.two_passes(x, out, False)

    def inverse(self, x: Side, out: Side, shared: bool) -> None:
        if _fits_one_pass(x.sizes, x.dtype, out.dtype) and not shared:
            self.pad(x, out)
        else:
            self.two_passes(x, out, True)


def _strides(key: Key) -> dict[str, int]:
    term, parity, row = key.strides
    return {"basis_u": row, "parity": parity, "term": term}


def _fits_one_pass(k: Sequence[int], x: torch.dtype, out: torch.dtype) -> bool:
    return max(k) <= _costs.FUSED_MOST and _compute_dtype(x, out) == torch.float32


class _Free(_Builder):
    """All that there is."""

    runs = True


_DIVIDED = 2048
"""Least length of which sums are divided: for shorter ones another launch is not worth it."""
_STEPS = 2
"""Least steps of a part of divided sums."""

Axes = list[tuple[int, int, int]]  # size, stride of x, stride of out


def _merged(axes: Iterable[tuple[int, int, int]]) -> Axes:
    """The same elements by fewer axes, outermost first."""
    found: Axes = []
    for size, a, b in axes:
        if size == 1:
            continue
        if found and found[-1][1] == a * size and found[-1][2] == b * size:
            found[-1] = (found[-1][0] * size, a, b)
        else:
            found.append((size, a, b))
    return found


def _batch(axes: Axes, tensors: int, aligned: bool) -> tuple[Batch, tuple[int, int], tuple[int, int]]:
    """The two longest axes, their strides in x and in out, and where they start: at each element of further ones."""
    axes = [(1, 0, 0)] * (2 - len(axes)) + sorted(axes)
    starts = [(0, 0)]
    for size, a, b in axes[:-2]:
        starts = [(p + i * a, q + i * b) for p, q in starts for i in range(size)]
    (s0, a0, b0), (s1, a1, b1) = axes[-2:]
    # What is aligned is the tensors, not each start in them.
    aligned = aligned and len(starts) == 1
    return Batch(s1, s0 * s1, s0 * s1 * len(starts) * tensors, aligned, tuple(starts)), (a0, a1), (b0, b1)


@functools.lru_cache(maxsize=4096)
def matrices(
    x: Layout, out: Layout, count: int, direction: str, k: tuple[int, int], norm: str, target: Target,
    aligned: bool, shared: bool,
) -> Plan:  # fmt: skip
    """The last two axes of `count` tensors transformed: "forward", "inverse", or "resize" by way of k coefficients.

    `aligned`: their addresses are multiples of 16 bytes. `shared`: results may lie in the inputs' memory.
    """
    axes = _merged(zip(x.shape[:-2], x.strides[:-2], out.strides[:-2], strict=True))
    batch, x_strides, out_strides = _batch(axes, count, aligned)
    builder = _Free(target, batch, norm)
    builder.exact = x.dtype
    grouped = count > 1 or len(batch.starts) > 1
    first = Side("x", x.dtype, x.shape[-2:], x.strides[-2:], x_strides, grouped)  # type: ignore[arg-type]
    last = Side("out", out.dtype, out.shape[-2:], out.strides[-2:], out_strides, grouped)  # type: ignore[arg-type]
    if direction == "forward":
        builder.forward(first, last)
    elif direction == "inverse":
        builder.inverse(first, last, shared)
    else:
        middle = builder.matrices(*k, _compute_dtype(x.dtype, out.dtype))
        builder.forward(first, middle)
        builder.inverse(middle, last, False)
    return builder.plan()


@functools.lru_cache(maxsize=4096)
def axis(x: Layout, out: Layout, inverse: bool, dim: int, norm: str, target: Target, aligned: bool = True) -> Plan:
    """One axis of x transformed into out, which has the same shape but for that axis."""
    rest = _merged((x.shape[d], x.strides[d], out.strides[d]) for d in range(len(x.shape)) if d != dim)
    # The axis that is contiguous is the lanes, or else the innermost.
    at = next((i for i, each in enumerate(rest) if each[1] == 1), len(rest) - 1)
    lanes = rest.pop(at) if rest else (1, 1, 1)
    batch, x_strides, out_strides = _batch(rest, 1, aligned)
    builder = _Free(target, batch, norm)
    builder.exact = x.dtype
    grouped = len(batch.starts) > 1
    first = Side("x", x.dtype, (x.shape[dim], lanes[0]), (x.strides[dim], lanes[1]), x_strides, grouped)
    last = Side("out", out.dtype, (out.shape[dim], lanes[0]), (out.strides[dim], lanes[2]), out_strides, grouped)
    builder.axis(first, last, inverse)
    return builder.plan()
